package sim

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk is a disk in memory. A sync of a write-ahead log takes time, in which
// others go on and power may be lost.
type disk struct {
	vfs.FS
	mem *vfs.MemFS
	a   *actor
	// slow is while syncs take time. Not while a store opens or closes: it holds a
	// mutex then, and the clock of a bubble stands while anybody waits for one.
	slow  context.Context
	hurry context.CancelFunc
	opens atomic.Bool
}

// slowest is how long a sync takes at most.
const slowest = 10 * time.Millisecond

func newDisk(mem *vfs.MemFS, a *actor) *disk {
	d := &disk{FS: mem, mem: mem, a: a}
	d.slow, d.hurry = context.WithCancel(context.Background())
	d.opens.Store(true)
	return d
}

// Create implements vfs.FS.
func (d *disk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, category)
	return d.file(name, f), err
}

// ReuseForWrite implements vfs.FS.
func (d *disk) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(old, name, category)
	return d.file(name, f), err
}

// file makes a log slow. Pebble syncs a log from one goroutine; its other files
// are synced from several at one instant, and would not wake in order.
func (d *disk) file(name string, f vfs.File) vfs.File {
	if f == nil || path.Ext(name) != ".log" {
		return f
	}
	return &slowFile{File: f, disk: d}
}

type slowFile struct {
	vfs.File
	disk *disk
}

func (f *slowFile) Sync() error {
	if !f.disk.opens.Load() && f.disk.slow.Err() == nil {
		_ = f.disk.a.wait(f.disk.slow, "sync", slowest)
	}
	return f.File.Sync()
}

func (f *slowFile) SyncData() error { return f.Sync() }

// crashed returns what the disk holds after a loss of power now: all that was
// synced, and of the rest each block and each new file with a chance of percent.
// vfs.MemFS can do that itself, but draws in the order of a map.
func (d *disk) crashed(percent int, rng *rand.Rand) (*vfs.MemFS, error) {
	after := d.mem.CrashClone(vfs.CrashCloneCfg{})
	return after, d.survive("/", after, percent, rng)
}

func (d *disk) survive(dir string, after *vfs.MemFS, percent int, rng *rand.Rand) error {
	names, err := d.mem.List(dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		name := path.Join(dir, name)
		info, err := d.mem.Stat(name)
		if err != nil {
			return err
		}
		_, err = after.Stat(name)
		if err != nil && rng.IntN(100) >= percent {
			continue // its entry in the folder is lost
		}
		if info.IsDir() {
			if err := after.MkdirAll(name, 0o755); err != nil {
				return err
			}
			if err := d.survive(name, after, percent, rng); err != nil {
				return err
			}
			continue
		}
		if err := d.surviveFile(name, after, percent, rng); err != nil {
			return err
		}
	}
	return syncDir(after, dir)
}

func (d *disk) surviveFile(name string, after *vfs.MemFS, percent int, rng *rand.Rand) error {
	now, err := readFile(d.mem, name)
	if err != nil {
		return err
	}
	f, err := after.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer f.Close()
	then, err := readFile(after, name)
	if err != nil {
		return err
	}
	const block = 4 << 10
	for at := 0; at < len(now); at += block {
		end := min(at+block, len(now))
		if at < len(then) && bytes.Equal(now[at:end], then[at:min(end, len(then))]) {
			continue
		}
		if rng.IntN(100) < percent {
			if _, err := f.WriteAt(now[at:end], int64(at)); err != nil {
				return err
			}
		}
	}
	return f.Sync()
}

func readFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

func syncDir(fs vfs.FS, dir string) error {
	f, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
