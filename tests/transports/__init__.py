"""What a client may rely on, over every transport, asked of real server processes from outside."""
