// wired below
