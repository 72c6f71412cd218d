package eventstore

import (
	"errors"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// errNoRoom refuses writes while the disk has less free than Config.MinFree.
// Pebble on a full disk hangs and never reports it, so the node stops before.
var errNoRoom = errors.New("the disk of the event store is nearly full: appends are refused until space returns")

// space watches the free bytes of the disk. The sequencer asks it before every
// group of writes, so that writes stop and resume by themselves.
type space struct {
	free func() (uint64, error)
	min  uint64
}

// check returns errNoRoom when there is too little room. A disk that cannot be
// asked counts as having room.
func (s space) check() error {
	if free, err := s.free(); err == nil && free < s.min {
		return errNoRoom
	}
	return nil
}

func diskFree(fs vfs.FS, dir string) func() (uint64, error) {
	return func() (uint64, error) {
		u, err := fs.GetDiskUsage(dir)
		return u.AvailBytes, err
	}
}
