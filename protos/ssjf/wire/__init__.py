"""What two processes of ssjf must agree on and `.proto` cannot say.

Error details, health, channel options, interceptors, start and shutdown. Every
service imports it; it imports no service.
"""
