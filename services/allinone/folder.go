package allinone

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"waymark/services/kit/run"
)

// A data folder holds
//
//	format       "waymark data 1": written last, so that its absence means the folder was never finished
//	key          the key of identifier hashes, 0600; a log without its key cannot be searched by identifier
//	clock        how far the clock is ahead of the machine's, if it ever was
//	lock         held by the process that uses the folder, with its pid
//	eventstore/  the log: the record
//	nats/        JetStream: a copy that can be rebuilt from the log
//	readmodels/  a folder for each service that keeps one, with personal data as the log has it: made again from
//	             the log when it is not there, but for which figures were exported, which nobody else knows
const (
	formatText = "waymark data "
	format     = 1

	formatFile = "format"
	keyFile    = "key"
	lockFile   = "lock"
	clockFile  = "clock"
	storeDir   = "eventstore"
	brokerDir  = "nats"
	modelsDir  = "readmodels"
)

// StoreDir returns where the data folder keeps the log, for a check of a stopped system.
func StoreDir(data string) string { return filepath.Join(data, storeDir) }

// folder is a data folder that this process has to itself.
type folder struct {
	path string
	key  []byte
	lock *os.File
}

// openFolder opens or makes the data folder at path and locks it. fresh deletes
// what it holds, if it is a data folder at all.
func openFolder(path string, fresh bool) (_ *folder, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	if err := recognise(path); err != nil {
		return nil, err
	}
	f := &folder{path: path}
	if f.lock, err = lock(filepath.Join(path, lockFile)); err != nil {
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("%s is in use%s: stop that one, or give --data another folder", path, heldBy(path))
		}
		return nil, err
	}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if err := os.WriteFile(filepath.Join(path, lockFile), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return nil, err
	}
	if fresh {
		// The stamp goes first: what remains after a crash is an unfinished folder.
		for _, name := range []string{formatFile, keyFile, clockFile, storeDir, brokerDir, modelsDir} {
			if err := os.RemoveAll(filepath.Join(path, name)); err != nil {
				return nil, err
			}
		}
	}
	if err := f.prepare(); err != nil {
		return nil, fmt.Errorf("data folder %s: %w", path, err)
	}
	return f, nil
}

// recognise refuses a folder that holds something else.
func recognise(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	ours := len(entries) == 0
	for _, e := range entries {
		switch e.Name() {
		case formatFile, keyFile, lockFile, clockFile, storeDir, brokerDir:
			ours = true
		}
	}
	if !ours {
		return fmt.Errorf("%s is not empty and holds no Waymark data: give --data another folder", path)
	}
	return nil
}

// prepare checks the stamp and reads the key, or makes both.
func (f *folder) prepare() error {
	stamp, err := os.ReadFile(f.file(formatFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(f.file(keyFile)); errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(f.file(storeDir)); err == nil {
				return errors.New("it has events but no key: put the key file back")
			}
			key := make([]byte, 32)
			rand.Read(key)
			if err := f.write(keyFile, hex.EncodeToString(key)+"\n"); err != nil {
				return err
			}
		}
		if err := f.write(formatFile, formatText+strconv.Itoa(format)+"\n"); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		n, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(string(stamp)), formatText))
		if err != nil {
			return fmt.Errorf("the file %q is damaged", formatFile)
		}
		if n > format {
			return fmt.Errorf("it has format %d, this program knows up to %d: use the program that wrote it, and export there with waymark events export", n, format)
		}
	}
	if f.key, err = run.ReadKey(f.file(keyFile)); err != nil {
		return fmt.Errorf("the key is needed to read identifiers, put it back: %w", err)
	}
	return nil
}

// write puts a small file in place at once and durably.
func (f *folder) write(name, text string) error {
	temp, err := os.OpenFile(f.file(name+".new"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = temp.WriteString(text)
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), f.file(name)); err != nil {
		return err
	}
	dir, err := os.Open(f.path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (f *folder) file(name string) string { return filepath.Join(f.path, name) }

// close lets another process have the folder.
func (f *folder) close() error { return f.lock.Close() }

var errLocked = errors.New("locked")

// heldBy says which process has the folder, as far as it told.
func heldBy(path string) string {
	text, err := os.ReadFile(filepath.Join(path, lockFile))
	pid, err2 := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || err2 != nil {
		return ""
	}
	return " by process " + describe(pid)
}
