"""The deployed topology: the files of deploy/, compose.yaml and the Dockerfile, held to what they promise.

No container engine is needed: the same database roles, nginx configuration and settings run as processes.
"""
