package sim

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk is a disk in memory that can lose power, as Pebble's own can. That one
// copies all it holds at each crash, and lists and draws in the order of maps;
// here what was synced is shared between lives, and only what was not is looked
// at. disk_test.go holds the one against the other.
//
// A sync of a write-ahead log takes time, in which others go on and power may be
// lost.
type disk struct {
	a *actor
	// slow is while syncs take time. Not while a store opens or closes: it holds a
	// mutex then, and the clock of a bubble stands while anybody waits for one.
	slow  context.Context
	hurry context.CancelFunc
	opens atomic.Bool

	mu     sync.Mutex
	now    map[string]*inode // under mu: by path
	synced map[string]*inode // under mu: the entries that outlive a loss of power
}

// inode is a file or a folder. Bytes that were synced are never written to
// again, so that lives can share them.
type inode struct {
	folder bool
	data   []byte // under disk.mu
	synced []byte // under disk.mu: often the beginning of data itself
}

// slowest is how long a sync takes at most.
const slowest = 10 * time.Millisecond

// block is what survives or not as one.
const block = 4 << 10

func newDisk(a *actor) *disk {
	root := &inode{folder: true}
	d := &disk{a: a, now: map[string]*inode{"/": root}, synced: map[string]*inode{"/": root}}
	d.slow, d.hurry = context.WithCancel(context.Background())
	d.opens.Store(true)
	return d
}

// crashed returns the disk of the next life after a loss of power now: all that
// was synced, and of the rest each block and each new entry of a folder with a
// chance of percent. What was removed and not synced is back.
func (d *disk) crashed(percent int, rng *rand.Rand, next *actor) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := maps.Clone(d.synced)
	maps.Copy(all, d.now)
	after := newDisk(next)
	for _, name := range slices.Sorted(maps.Keys(all)) { // a folder before what it holds
		kept, ok := d.synced[name]
		if n, is := d.now[name]; is && n != kept && rng.IntN(100) < percent {
			kept, ok = n, true
		}
		if _, there := after.now[path.Dir(name)]; ok && there && name != "/" {
			after.now[name] = kept.crashed(percent, rng)
		}
	}
	after.synced = maps.Clone(after.now)
	return after
}

func (n *inode) crashed(percent int, rng *rand.Rand) *inode {
	kept, shared := n.synced, true
	for at := 0; at < len(n.data); at += block {
		end := min(at+block, len(n.data))
		if end <= len(kept) && bytes.Equal(n.data[at:end], kept[at:end]) || rng.IntN(100) >= percent {
			continue
		}
		if shared {
			kept, shared = slices.Clone(kept), false
		}
		kept = append(kept, make([]byte, max(end-len(kept), 0))...)
		copy(kept[at:], n.data[at:end])
	}
	kept = slices.Clip(kept)
	return &inode{folder: n.folder, data: kept, synced: kept}
}

// write writes b at an offset and leaves alone what was synced.
func (n *inode) write(b []byte, at int) {
	if at < len(n.synced) && &n.data[0] == &n.synced[0] {
		n.data = slices.Clone(n.data)
	}
	if end := at + len(b); end > len(n.data) {
		n.data = slices.Grow(n.data, end-len(n.data))[:end]
	}
	copy(n.data[at:], b)
}

// sync makes an inode outlive a loss of power. The caller holds mu.
func (d *disk) sync(name string, n *inode) {
	if !n.folder {
		n.synced = slices.Clip(n.data)
		return
	}
	for p := range d.synced {
		if _, ok := d.now[p]; !ok && lies(p, name) {
			delete(d.synced, p)
		}
	}
	for p, child := range d.now {
		if lies(p, name) {
			d.synced[p] = child
		}
	}
}

// lies says that a path lies in a folder, and in none below.
func lies(p, folder string) bool {
	if folder == "/" {
		folder = ""
	}
	return len(p) > len(folder)+1 && p[len(folder)] == '/' && p[:len(folder)] == folder && strings.IndexByte(p[len(folder)+1:], '/') < 0
}

// do runs a call of vfs.FS on a path.
func (d *disk) do(op, name string, f func(name string) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = path.Clean(name)
	if err := f(name); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// open opens what is there, or what make makes.
func (d *disk) open(name string, writes bool, make func(name string) error) (f *file, err error) {
	err = d.do("open", name, func(name string) error {
		if err := make(name); err != nil {
			return err
		}
		n, ok := d.now[name]
		if !ok {
			return fs.ErrNotExist
		}
		f = &file{disk: d, name: name, inode: n, writes: writes}
		return nil
	})
	return f, err
}

// slowly is a file of which syncs take time if it is a write-ahead log. Pebble
// syncs a log from one goroutine; its other files are synced from several at one
// instant, and would not wake in order.
func slowly(f *file, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	if path.Ext(f.name) != ".log" {
		return f, nil
	}
	return &slowFile{f}, nil
}

func (d *disk) create(name string) error {
	if n, ok := d.now[path.Dir(name)]; !ok || !n.folder {
		return fs.ErrNotExist
	}
	d.now[name] = &inode{}
	return nil
}

func (d *disk) rename(old, name string) error {
	n, ok := d.now[old]
	if !ok || n.folder { // nobody renames folders
		return fs.ErrNotExist
	}
	delete(d.now, old)
	d.now[name] = n
	return nil
}

func (d *disk) list(folder string) (names []string) {
	for p := range d.now {
		if lies(p, folder) {
			names = append(names, path.Base(p))
		}
	}
	slices.Sort(names)
	return names
}

func asItIs(string) error { return nil }

// Create implements vfs.FS.
func (d *disk) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	return slowly(d.open(name, true, d.create))
}

// Open implements vfs.FS.
func (d *disk) Open(name string, _ ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.open(name, false, asItIs)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// OpenDir implements vfs.FS.
func (d *disk) OpenDir(name string) (vfs.File, error) { return d.Open(name) }

// OpenReadWrite implements vfs.FS.
func (d *disk) OpenReadWrite(name string, _ vfs.DiskWriteCategory, _ ...vfs.OpenOption) (vfs.File, error) {
	return slowly(d.open(name, true, func(name string) error {
		if _, ok := d.now[name]; ok {
			return nil
		}
		return d.create(name)
	}))
}

// ReuseForWrite implements vfs.FS.
func (d *disk) ReuseForWrite(old, name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	return slowly(d.open(name, true, func(name string) error { return d.rename(path.Clean(old), name) }))
}

// Rename implements vfs.FS.
func (d *disk) Rename(old, name string) error {
	return d.do("rename", old, func(old string) error { return d.rename(old, path.Clean(name)) })
}

// Link implements vfs.FS.
func (d *disk) Link(old, name string) error {
	return d.do("link", old, func(old string) error {
		n, ok := d.now[old]
		if !ok {
			return fs.ErrNotExist
		}
		if _, ok := d.now[path.Clean(name)]; ok {
			return fs.ErrExist
		}
		d.now[path.Clean(name)] = n
		return nil
	})
}

// Remove implements vfs.FS.
func (d *disk) Remove(name string) error {
	return d.do("remove", name, func(name string) error {
		n, ok := d.now[name]
		if !ok {
			return fs.ErrNotExist
		}
		if n.folder && len(d.list(name)) > 0 {
			return fs.ErrInvalid
		}
		delete(d.now, name)
		return nil
	})
}

// RemoveAll implements vfs.FS.
func (d *disk) RemoveAll(name string) error {
	return d.do("remove", name, func(name string) error {
		maps.DeleteFunc(d.now, func(p string, _ *inode) bool { return p == name || strings.HasPrefix(p, name+"/") })
		return nil
	})
}

// MkdirAll implements vfs.FS.
func (d *disk) MkdirAll(name string, _ os.FileMode) error {
	return d.do("mkdir", name, func(name string) error {
		for ; name != "/"; name = path.Dir(name) {
			if n, ok := d.now[name]; !ok {
				d.now[name] = &inode{folder: true}
			} else if !n.folder {
				return fs.ErrExist
			}
		}
		return nil
	})
}

// Lock implements vfs.FS: nobody else has this disk.
func (d *disk) Lock(name string) (io.Closer, error) {
	return d.Create(name, vfs.WriteCategoryUnspecified)
}

// List implements vfs.FS.
func (d *disk) List(name string) (names []string, err error) {
	err = d.do("list", name, func(name string) error {
		if n, ok := d.now[name]; !ok || !n.folder {
			return fs.ErrNotExist
		}
		names = d.list(name)
		return nil
	})
	return names, err
}

// Stat implements vfs.FS.
func (d *disk) Stat(name string) (vfs.FileInfo, error) {
	f, err := d.open(name, false, asItIs)
	if err != nil {
		return nil, err
	}
	return f.Stat()
}

// PathBase implements vfs.FS.
func (*disk) PathBase(p string) string { return path.Base(p) }

// PathJoin implements vfs.FS.
func (*disk) PathJoin(elem ...string) string { return path.Join(elem...) }

// PathDir implements vfs.FS.
func (*disk) PathDir(p string) string { return path.Dir(p) }

// GetDiskUsage implements vfs.FS.
func (*disk) GetDiskUsage(string) (vfs.DiskUsage, error) { return vfs.DiskUsage{}, vfs.ErrUnsupported }

// Unwrap implements vfs.FS.
func (*disk) Unwrap() vfs.FS { return nil }

// file is an open file or folder. It implements vfs.File.
type file struct {
	disk   *disk
	name   string
	inode  *inode
	writes bool
	at     int // where Read and Write go on; one goroutine's
}

func (f *file) Close() error { return nil }

func (f *file) Read(b []byte) (int, error) {
	n, err := f.ReadAt(b, int64(f.at))
	f.at += n
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(b []byte, at int64) (n int, err error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if at < int64(len(f.inode.data)) {
		n = copy(b, f.inode.data[at:])
	}
	if n < len(b) {
		err = io.EOF
	}
	return n, err
}

func (f *file) Write(b []byte) (int, error) {
	n, err := f.WriteAt(b, int64(f.at))
	f.at += n
	return n, err
}

func (f *file) WriteAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if !f.writes || f.inode.folder {
		return 0, &fs.PathError{Op: "write", Path: f.name, Err: fs.ErrPermission}
	}
	f.inode.write(b, int(at))
	return len(b), nil
}

func (f *file) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.sync(f.name, f.inode)
	return nil
}

func (f *file) SyncData() error              { return f.Sync() }
func (f *file) SyncTo(int64) (bool, error)   { return false, nil }
func (f *file) Preallocate(_, _ int64) error { return nil }
func (f *file) Prefetch(_, _ int64) error    { return nil }
func (f *file) Fd() uintptr                  { return vfs.InvalidFd }

func (f *file) Stat() (vfs.FileInfo, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return info{path.Base(f.name), int64(len(f.inode.data)), f.inode.folder}, nil
}

// info implements vfs.FileInfo.
type info struct {
	name   string
	size   int64
	folder bool
}

func (i info) Name() string           { return i.name }
func (i info) Size() int64            { return i.size }
func (i info) IsDir() bool            { return i.folder }
func (i info) ModTime() time.Time     { return time.Time{} }
func (i info) Sys() any               { return nil }
func (i info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
func (i info) Mode() os.FileMode {
	if i.folder {
		return os.ModeDir | 0o755
	}
	return 0o644
}

type slowFile struct{ *file }

func (f *slowFile) Sync() error {
	if !f.disk.opens.Load() && f.disk.slow.Err() == nil {
		_ = f.disk.a.wait(f.disk.slow, "sync", slowest)
	}
	return f.file.Sync()
}

func (f *slowFile) SyncData() error { return f.Sync() }
