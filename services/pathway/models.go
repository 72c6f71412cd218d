package pathway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"waymark/services/kit/es"
)

// models holds the read model of this version, and while that is being built
// the one of an earlier version, which goes on answering, ever further behind.
// One in which damage is met is made again in another folder, for its own is open
// to those who read.
type models struct {
	fs     vfs.FS
	folder string // of the newest as it was at first; those in its place have a number behind a dot

	mu      sync.Mutex // guards all below
	newest  *model
	nth     int      // the number of the newest, 0 for none
	old     *model   // nil when there is none
	retired []*model // no longer asked; closed with the rest
}

// openModels opens what is in dir; "" keeps everything in memory.
func openModels(log es.Log, logger *slog.Logger, dir string, fs vfs.FS, version int) (*models, error) {
	if dir == "" {
		dir, fs = "pathway", vfs.NewMem()
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	folder := fmt.Sprintf("model-%d", version)
	ms := &models{fs: fs, folder: fs.PathJoin(dir, folder)}
	for _, name := range names {
		if n, ok := strings.CutPrefix(name, folder+"."); ok {
			n, _ := strconv.Atoi(n)
			ms.nth = max(ms.nth, n)
		}
	}
	ms.newest, err = openModel(log, logger, ms.path(), fs)
	if pebble.IsCorruptionError(err) {
		logger.Warn("the read model is damaged: it is made again", slog.String("event.name", "pathway.model.damaged"))
		if err := fs.RemoveAll(ms.path()); err != nil {
			return nil, err
		}
		ms.newest, err = openModel(log, logger, ms.path(), fs)
	}
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		if path == ms.path() || !strings.HasPrefix(name, "model-") {
			continue
		}
		if ms.newest.at() > 0 || ms.old != nil { // it was switched from before, or is older still
			if err := fs.RemoveAll(path); err != nil {
				return nil, err
			}
			continue
		}
		old, err := openModel(log, logger, path, fs)
		if err != nil { // of no use to anybody
			logger.Warn("an earlier read model cannot be opened", "folder", filepath.Base(path))
			continue
		}
		ms.old = old
	}
	return ms, nil
}

// path is the folder of the newest.
func (ms *models) path() string {
	if ms.nth == 0 {
		return ms.folder
	}
	return fmt.Sprintf("%s.%d", ms.folder, ms.nth)
}

// following is the model that follows the log.
func (ms *models) following() *model {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.newest
}

// serving is the model that answers.
func (ms *models) serving() *model {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.old != nil {
		return ms.old
	}
	return ms.newest
}

// follow keeps the newest model with the log, and switches to it when it has
// come to the log's end as it was at the start. Where it ends for damage, the next
// follow makes the model again.
func (ms *models) follow(ctx context.Context, log es.Log, now func() time.Time) error {
	m := ms.following()
	err := ms.followOne(ctx, m, log, now)
	select {
	case <-m.damaged:
		return errors.Join(err, ms.renew())
	default:
	}
	if pebble.IsCorruptionError(err) {
		return errors.Join(err, ms.renew())
	}
	return err
}

// renew puts an empty model in the place of the newest.
func (ms *models) renew() error {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	damaged := ms.newest
	ms.nth++
	if err := ms.fs.RemoveAll(ms.path()); err != nil { // of an attempt that failed
		ms.nth--
		return err
	}
	m, err := openModel(damaged.log, damaged.slog, ms.path(), ms.fs)
	if err != nil {
		ms.nth--
		return err
	}
	m.remade = true
	ms.newest, ms.retired = m, append(ms.retired, damaged)
	damaged.wake()
	return nil
}

func (ms *models) followOne(ctx context.Context, m *model, log es.Log, now func() time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if old := ms.serving(); old != m {
		known, err := old.last.foundIn(ctx, log)
		if err != nil {
			return err
		}
		if !known { // it is of another log
			ms.retire()
			return m.follow(ctx, now)
		}
		head, err := log.Head(ctx)
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() {
			for {
				moved := m.changed()
				if m.at() >= head {
					ms.retire()
					return
				}
				select {
				case <-moved:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return m.follow(ctx, now)
}

// retire lets the newest answer. The old one stays open for whoever still reads
// it, and is removed at the next start.
func (ms *models) retire() {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.old.wake() // whoever watches it goes on with the newest
	ms.retired = append(ms.retired, ms.old)
	ms.old = nil
}

func (ms *models) close() error {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	err := ms.newest.close()
	for _, m := range append(ms.retired, ms.old) {
		if m != nil {
			err = errors.Join(err, m.close())
		}
	}
	return err
}
