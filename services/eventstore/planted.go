//go:build !planted

package eventstore

// planted says that the named bug is built in, for the simulation to find. It
// never is, but with the build tag "planted".
func planted(string) bool { return false }
