"""The predictor service: how long will each answer be? And the tools that train it."""
