"""What a person puts into .env, made up anew for each run."""

import secrets

NAMES = ("DB_SUPERUSER_PASSWORD", "DB_OWNER_PASSWORD", "DB_APP_PASSWORD")


def example_env_values() -> dict[str, str]:
    """The three passwords that compose.yaml asks for."""
    return {name: secrets.token_hex(24) for name in NAMES}
