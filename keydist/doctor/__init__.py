"""The checks of `keydist doctor`: what each looks at, wired to who looks and who judges. None changes anything."""
