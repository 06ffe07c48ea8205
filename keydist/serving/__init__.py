"""What the agent serves: the socket for local processes, and HTTP for whoever verifies or watches."""
