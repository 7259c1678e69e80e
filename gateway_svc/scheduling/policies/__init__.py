"""One file a policy; `gateway_svc.scheduling.policy` finds them."""
