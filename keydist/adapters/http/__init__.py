"""HTTP on sockets: uvicorn's protocol behind a guard, and the sockets themselves."""
