//go:build !planted

// Package planted holds the switch of the bugs that are built in on purpose, for
// the simulation to find: what cannot see a planted bug proves nothing. With the
// build tag "planted" the environment variable PLANT names the one at work;
// without, there is none, and the compiler leaves its code out.
package planted

// Is says that the named bug is at work.
func Is(string) bool { return false }
