package pathway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"waymark/services/kit/es"
)

// models holds the read model of this version, and while that is being built
// the one of an earlier version, which goes on answering, ever further behind.
type models struct {
	newest *model
	fs     vfs.FS
	folder string // of the newest

	mu      sync.Mutex // guards all below
	old     *model     // nil when there is none
	retired []*model   // no longer asked; closed with the rest
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
	folder := func(version int) string { return fmt.Sprintf("model-%d", version) }
	ms := &models{fs: fs, folder: fs.PathJoin(dir, folder(version))}
	ms.newest, err = openModel(log, logger, ms.folder, fs)
	if pebble.IsCorruptionError(err) {
		logger.Warn("the read model is damaged: it is made again", slog.String("event.name", "pathway.model.damaged"))
		if err := fs.RemoveAll(ms.folder); err != nil {
			return nil, err
		}
		ms.newest, err = openModel(log, logger, ms.folder, fs)
	}
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if name == folder(version) || !strings.HasPrefix(name, "model-") {
			continue
		}
		path := fs.PathJoin(dir, name)
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
// come to the log's end as it was at the start.
func (ms *models) follow(ctx context.Context, log es.Log, now func() time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if ms.serving() != ms.newest {
		known, err := ms.serving().last.foundIn(ctx, log)
		if err != nil {
			return err
		}
		if !known { // it is of another log
			ms.retire()
			return ms.newest.follow(ctx, now)
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
				moved := ms.newest.changed()
				if ms.newest.at() >= head {
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
	return ms.newest.follow(ctx, now)
}

// retire lets the newest answer. The old one stays open for whoever still reads
// it, and is removed at the next start.
func (ms *models) retire() {
	ms.mu.Lock()
	defer ms.mu.Unlock()
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
