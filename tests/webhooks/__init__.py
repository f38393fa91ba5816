"""Webhooks: signed, tried again, recorded, taken over; and never where they must not go."""
