"""What keydist does, one public coroutine a module; the outside comes in through ports."""
