package pathway

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	pb "waymark/proto/waymark/pathway/v1"
	"waymark/services/kit/fault"
)

// exports is what was exported, so that two exports do not tell by their
// difference what neither tells by itself.
//
// The rule: of two exact numbers of the same indicator, split and month that were
// both shown, where one counts among the people of the other (the same filter, or
// a wider one), the difference is 0 or at least 8. The number 8 and the rounding
// are those of disclosure control for sub-national hospital tables (England); the
// rule about differences is a platform choice, since that method is about one
// publication and not about questions that follow each other.
//
//   - The same figure asked again, changed by 1 to 7 since: the figure that was
//     shown before is shown again, and the row says held.
//   - A figure that differs from one of a wider or narrower filter by 1 to 7: hidden.
//
// Numbers that were hidden are compared with nothing: nobody was told them.
//
// Where damage was met nothing is exported until somebody decides what becomes of
// it: without what was told before, no export is known to be safe.
type exports struct {
	mu      sync.Mutex // one export at a time: it is compared with all before it
	db      *pebble.DB // nil when it cannot be opened for damage
	damaged atomic.Bool

	// What tests set to plant the bugs that they must catch: wider and narrower
	// filters are not looked at; what was shown before is not.
	blind, forgetful bool
}

// openExports opens what is in dir; "" keeps it in memory. It is no cache: what
// has left cannot be called back, and the log does not know of it. Damage ends
// only the exports: the rest of the service goes on.
func openExports(dir string, fs vfs.FS, logger *slog.Logger) (*exports, error) {
	if dir == "" {
		dir, fs = "exports", vfs.NewMem()
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	x, folder := &exports{}, fs.PathJoin(dir, "exports")
	met := func(pebble.DataCorruptionInfo) { // left to itself Pebble would end the process
		if x.damaged.Swap(true) {
			return
		}
		logger.Error("what was exported before is damaged: nothing is exported until its folder is restored or removed",
			slog.String("event.name", "pathway.exports.damaged"))
		if f, err := fs.Create(fs.PathJoin(folder, spoiled), vfs.WriteCategoryUnspecified); err == nil {
			f.Close()
		}
	}
	if _, err := fs.Stat(fs.PathJoin(folder, spoiled)); err == nil {
		met(pebble.DataCorruptionInfo{})
		return x, nil
	}
	var err error
	x.db, err = pebble.Open(folder, &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quietLogger{},
		EventListener: &pebble.EventListener{DataCorruption: met},
		DisableWAL:    true, // damage at its end would read like what a crash cut off
	})
	switch {
	case pebble.IsCorruptionError(err):
		met(pebble.DataCorruptionInfo{})
	case err != nil:
		return nil, fmt.Errorf("exported figures: %w", err)
	}
	return x, nil
}

func (x *exports) close() error {
	if x.db == nil {
		return nil
	}
	return x.db.Close()
}

// anyOf stands for a dimension that a row is not limited in.
const anyOf = "*"

// scope is the filter of a row: provider, tumour group, route.
type scope [3]string

// scopeOf a row, by what the question limits and what it breaks down by.
func scopeOf(q *pb.GetIndicatorsRequest, row *pb.IndicatorRow) scope {
	one := func(by pb.IndicatorDimension, value, filter string) string {
		switch {
		case slices.Contains(q.By, by):
			return value
		case filter != "":
			return filter
		}
		return anyOf
	}
	return scope{one(pb.IndicatorDimension_INDICATOR_DIMENSION_PROVIDER, row.Provider, q.Provider),
		one(pb.IndicatorDimension_INDICATOR_DIMENSION_TUMOUR_GROUP, row.TumourGroup, q.TumourGroup),
		one(pb.IndicatorDimension_INDICATOR_DIMENSION_ROUTE, row.Route, "")}
}

// includes reports whether all that b counts a counts too.
func (a scope) includes(b scope) bool {
	for i := range a {
		if a[i] != anyOf && a[i] != b[i] {
			return false
		}
	}
	return true
}

// told is a figure that was shown: the exact number, what was shown for it, and
// with a number of people the median and its like that were shown beside it.
type told struct{ exact, shown, value, p90 float64 }

func (t told) bytes() (b []byte) {
	for _, n := range []float64{t.exact, t.shown, t.value, t.p90} {
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(n))
	}
	return b
}

func toldOf(b []byte) (t told, err error) {
	if len(b) != 4*8 {
		return t, errUnreadable
	}
	for i, n := range []*float64{&t.exact, &t.shown, &t.value, &t.p90} {
		*n = math.Float64frombits(binary.BigEndian.Uint64(b[8*i:]))
	}
	return t, nil
}

var errUnreadable = fmt.Errorf("exported figures: %w", pebble.ErrCorruption)

// errNoMemory is no reason to repeat the call: somebody has to decide.
var errNoMemory = fault.Lost("indicator.exports_damaged", "what was exported before cannot be read, so no export is known to be safe beside it: restore the folder exports of the read model from a backup, or remove it to start without memory; then start again")

// release makes exact rows fit to leave: small numbers hidden, others rounded, and
// no difference to an earlier export that tells a small number. What it lets go
// it keeps, before it returns.
func (x *exports) release(q *pb.GetIndicatorsRequest, rows []*pb.IndicatorRow) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.damaged.Load() {
		return errNoMemory
	}
	err := x.commit(q, rows)
	if pebble.IsCorruptionError(err) {
		return errNoMemory
	}
	return err
}

func (x *exports) commit(q *pb.GetIndicatorsRequest, rows []*pb.IndicatorRow) error {
	batch := x.db.NewIndexedBatch()
	defer batch.Close()
	for _, row := range rows {
		if err := x.guard(batch, q, row); err != nil {
			return err
		}
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	return x.db.Flush()
}

// guard does so for one row.
func (x *exports) guard(b *pebble.Batch, q *pb.GetIndicatorsRequest, row *pb.IndicatorRow) error {
	at, value, p90 := scopeOf(q, row), row.Value, row.P90
	exact := map[string]float64{"numerator": row.Numerator.GetNumber(), "denominator": row.Denominator.GetNumber(), "excluded": row.Excluded.GetNumber()}
	suppress(row)
	for kind, f := range map[string]*pb.Figure{"numerator": row.Numerator, "denominator": row.Denominator, "excluded": row.Excluded} {
		if f == nil || f.Suppressed {
			continue
		}
		beside := strings.Join([]string{row.Id, row.Split, row.Month, kind, ""}, "\x00")
		before, near, err := x.compare(b, []byte(beside), at, exact[kind])
		if err != nil {
			return err
		}
		switch {
		case before != nil:
			f.Number, row.Held = before.shown, row.Held || before.exact != exact[kind]
			if kind == "denominator" && median(row.Unit) {
				row.Held = row.Held || before.value != value.GetNumber() || before.p90 != p90.GetNumber()
				row.Value, row.P90 = &pb.Figure{Number: before.value}, &pb.Figure{Number: before.p90}
			}
			continue
		case near:
			f.Number, f.Suppressed = 0, true
			continue
		}
		t := told{exact: exact[kind], shown: f.Number}
		if kind == "denominator" && median(row.Unit) {
			t.value, t.p90 = value.GetNumber(), p90.GetNumber()
		}
		key := beside + strings.Join(at[:], "\x00") + "\x00" + strconv.FormatFloat(t.exact, 'g', -1, 64)
		if err := b.Set([]byte(key), t.bytes(), nil); err != nil {
			return err
		}
	}
	follow(row)
	return nil
}

// follow makes the rest of a row fit its counts.
func follow(row *pb.IndicatorRow) {
	switch {
	case median(row.Unit):
		if row.Denominator.GetSuppressed() && row.Value != nil {
			row.Value, row.P90 = &pb.Figure{Suppressed: true}, &pb.Figure{Suppressed: true}
		}
	case row.Unit == pb.IndicatorUnit_INDICATOR_UNIT_COUNT:
		row.Value = row.Numerator
	default:
		row.Value = rate(row.Numerator, row.Denominator)
		if row.Value.GetNumber() > 100 { // of figures that were held at different times
			row.Value = &pb.Figure{Suppressed: true}
		}
	}
	row.Suppressed = false
	for _, f := range []*pb.Figure{row.Value, row.P90, row.Longest, row.Numerator, row.Denominator, row.Excluded} {
		row.Suppressed = row.Suppressed || f.GetSuppressed()
	}
}

// compare looks at what was shown of the same, wider and narrower filters: before
// is a figure of the same that is to be shown again, the closest; near says that
// one of the others is too close.
func (x *exports) compare(b *pebble.Batch, beside []byte, at scope, exact float64) (before *told, near bool, err error) {
	it, err := b.NewIter(&pebble.IterOptions{LowerBound: beside, UpperBound: beyond(beside)})
	if err != nil {
		return nil, false, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		parts := strings.Split(string(it.Key()[len(beside):]), "\x00")
		if len(parts) != len(at)+1 {
			return nil, false, errUnreadable
		}
		t, err := toldOf(it.Value())
		if err != nil {
			return nil, false, err
		}
		other, by := scope(parts[:len(at)]), math.Abs(t.exact-exact)
		switch {
		case by >= smallest:
		case other == at && !x.forgetful:
			if before == nil || by < math.Abs(before.exact-exact) {
				before = &t
			}
		case other != at && by > 0 && !x.blind:
			near = near || at.includes(other) || other.includes(at)
		}
	}
	return before, near, it.Error()
}
