//go:build !unix

package allinone

import "os"

// lock opens file and no more: here the event store's own lock keeps a second
// process out, with a plainer message.
func lock(file string) (*os.File, error) {
	return os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
}
