package sim

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// TestDiskIsThatOfPebble does the same to our disk and to Pebble's, in which a
// loss of power takes all that was not synced, and then compares all they hold.
func TestDiskIsThatOfPebble(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(1, Options{})
		var ours vfs.FS = newDisk(w.node.a)
		var theirs vfs.FS = vfs.NewCrashableMem()
		both := func(what string, f func(vfs.FS) error) {
			a, b := f(ours), f(theirs)
			if (a == nil) != (b == nil) {
				t.Fatalf("%s: ours says %v, Pebble's %v", what, a, b)
			}
		}
		names := []string{"/a", "/b", "/d/a", "/d/b", "/d/c.log"}
		name := func() string { return rapid.SampledFrom(names).Draw(t, "name") }
		write := func(fs vfs.FS, open func(vfs.FS) (vfs.File, error), b []byte) error {
			f, err := open(fs)
			if err != nil {
				return err
			}
			_, err = f.Write(slices.Clone(b))
			if err == nil && len(b)%2 == 0 {
				err = f.Sync()
			}
			return err
		}
		both("mkdir", func(fs vfs.FS) error {
			root, err := fs.OpenDir("/")
			return errors.Join(fs.MkdirAll("/d", 0o755), err, root.Sync())
		})
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			n, other := name(), name()
			b := make([]byte, rapid.SampledFrom([]int{0, 1, 10, 5000, 9001}).Draw(t, "bytes"))
			for i := range b {
				b[i] = byte(len(n)*31 + len(b) + i*7)
			}
			switch rapid.IntRange(0, 8).Draw(t, "what") {
			case 0:
				both("create", func(fs vfs.FS) error {
					return write(fs, func(fs vfs.FS) (vfs.File, error) { return fs.Create(n, vfs.WriteCategoryUnspecified) }, b)
				})
			case 1:
				both("rewrite", func(fs vfs.FS) error {
					return write(fs, func(fs vfs.FS) (vfs.File, error) { return fs.OpenReadWrite(n, vfs.WriteCategoryUnspecified) }, b)
				})
			case 2, 3:
				both("append", func(fs vfs.FS) error {
					return write(fs, func(fs vfs.FS) (vfs.File, error) {
						f, err := fs.OpenReadWrite(n, vfs.WriteCategoryUnspecified)
						if err == nil {
							_, err = io.Copy(io.Discard, f)
						}
						return f, err
					}, b)
				})
			case 4:
				if n == other {
					continue // Pebble's then loses the file
				}
				both("rename", func(fs vfs.FS) error { return fs.Rename(n, other) })
			case 5:
				both("remove", func(fs vfs.FS) error { return fs.Remove(n) })
			case 6:
				if n == other {
					continue
				}
				both("reuse", func(fs vfs.FS) error {
					return write(fs, func(fs vfs.FS) (vfs.File, error) { return fs.ReuseForWrite(n, other, vfs.WriteCategoryUnspecified) }, b)
				})
			case 7:
				both("sync", func(fs vfs.FS) error {
					f, err := fs.OpenDir(path.Dir(n))
					if err != nil {
						return err
					}
					return f.Sync()
				})
			case 8:
				ours = ours.(*disk).crashed(0, rand.New(rand.NewPCG(1, 1)), w.node.a)
				theirs = theirs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
			}
			if a, b := held(t, ours, "/"), held(t, theirs, "/"); !slices.Equal(a, b) {
				t.Fatalf("ours holds %v, Pebble's %v", a, b)
			}
		}
	})
}

// held lists all files with their bytes.
func held(t *rapid.T, fs vfs.FS, dir string) (all []string) {
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	for _, n := range names {
		n = path.Join(dir, n)
		info, err := fs.Stat(n)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			all = append(append(all, n), held(t, fs, n)...)
			continue
		}
		f, err := fs.Open(n)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil || int64(len(b)) != info.Size() {
			t.Fatalf("%s: %d bytes, %d by its size, %v", n, len(b), info.Size(), err)
		}
		all = append(all, fmt.Sprintf("%s %x", n, b))
	}
	return all
}

// TestDiskKeepsSome shows that what was not synced survives in part.
func TestDiskKeepsSome(t *testing.T) {
	d := newDisk(newWorld(1, Options{}).node.a)
	f, err := d.Create("/a", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 100*block)); err != nil {
		t.Fatal(err)
	}
	sizes := map[int]bool{}
	for i := range uint64(20) {
		n := d.crashed(50, rand.New(rand.NewPCG(i, i)), d.a).now["/a"]
		if n == nil {
			sizes[-1] = true
			continue
		}
		sizes[len(n.data)] = true
	}
	if !sizes[-1] || len(sizes) < 3 {
		t.Errorf("of 20 crashes that keep a half came files of %v bytes", sizes)
	}
	if all := d.crashed(100, rand.New(rand.NewPCG(1, 1)), d.a).now["/a"]; len(all.data) != 100*block {
		t.Errorf("a crash that keeps all kept %d bytes", len(all.data))
	}
}
