"""What every HTTP request passes: checks of the caller, request ids, problem+json, plain requests and replies."""
