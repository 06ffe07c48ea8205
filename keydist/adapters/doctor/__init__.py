"""What a doctor looks at on this machine; nothing here changes anything."""
