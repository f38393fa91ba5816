"""What every request passes before its route: Host and Origin, CORS, request ids, and refusals as problem+json."""
