"""The commands: a module a verb, no logic: parse, call one library function, print, exit."""
