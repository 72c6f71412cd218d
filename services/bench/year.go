package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/emptypb"

	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/allinone"
	"waymark/services/cohort"
	"waymark/services/kit/es"
	"waymark/services/kit/nhs"
	"waymark/services/kit/run"
)

// AllianceReferrals is how many urgent suspected cancer referrals the largest
// cancer alliance has in a year: about a tenth of England's 3.3 million.
const AllianceReferrals = 330_000

// yearSource names the source of what Year makes up.
const yearSource = "year"

// YearOptions of Year. Dir and Child are required.
type YearOptions struct {
	Dir       string // of the node's data; it stays. One that holds a year is measured again
	Referrals int    // 0 means AllianceReferrals
	Seed      uint64
	Child     func(args ...string) *exec.Cmd // as Options.Child
	// Progress, where set, is told of patients that are recorded.
	Progress func(what string, done, of int)

	appending time.Duration // of each measurement of appends; 0 means 3 s
}

// YearResult is what a year came to.
type YearResult struct {
	Machine   Machine        `json:"machine"`
	Referrals int            `json:"referrals"`
	Diagnosed int            `json:"diagnosed"`
	Events    int            `json:"events"`
	Commands  int            `json:"commands"` // and queries that the journeys needed
	Refusals  map[string]int `json:"refusals,omitempty"`
	Seconds   float64        `json:"seconds"`
	Rate      float64        `json:"events_per_second"`
	// Of an event, before compression: data, metadata, and what the disk holds of it
	// in the end.
	DataBytes     float64 `json:"data_bytes_per_event"`
	MetadataBytes float64 `json:"metadata_bytes_per_event"`
	DiskBytes     int64   `json:"disk_bytes"`
	DiskPerEvent  float64 `json:"disk_bytes_per_event"`

	Growth []Growth `json:"growth"`

	Rebuild     float64           `json:"rebuild_seconds"` // of the read models
	RebuildRate float64           `json:"rebuild_events_per_second"`
	ModelBytes  int64             `json:"model_bytes"`
	Verify      float64           `json:"verify_seconds"`
	Verdict     *allinone.Verdict `json:"verdict"`
	// Memory at most, in bytes: of this process while it records and to the end,
	// when it has verified, and of the one that made the read models.
	RecordMemory  int64 `json:"record_memory_bytes"`
	MakerBytes    int64 `json:"maker_memory_bytes"`
	RebuildMemory int64 `json:"rebuild_memory_bytes"`
}

// Growth is what things cost when the log holds so many events. Times are in
// microseconds, by the median and the 99th percentile.
type Growth struct {
	Events int     `json:"events"`
	Append float64 `json:"appends_per_second"` // 64 writers, one event each
	One    Times   `json:"append_us"`          // one writer, one event
	// By kit/es, of streams as old as the log with so many events.
	Read10   Times   `json:"read_10_us"`
	Read100  Times   `json:"read_100_us"`
	Read1000 Times   `json:"read_1000_us"`
	Start    float64 `json:"start_seconds"`           // from kill -9 to the first answer
	Memory   int64   `json:"node_memory_bytes"`       // then
	After    int64   `json:"node_memory_after_bytes"` // the measurements
}

// Times are what something took.
type Times struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

func (t Times) String() string { return figure(t.P50) + " / " + figure(t.P99) }

// growthAt are the sizes of a log at which growth is measured.
var growthAt = [...]int{10_000, 100_000, 1_000_000, 10_000_000}

const (
	// wards is how many patients are recorded at a time.
	wards = 2
	// wave is how many patients pass until what the services keep of them is let go.
	wave = 3200
	// leadEvery is how many patients are referred until the next lead is given
	// those who are to be handed over: some thirty of a ward's.
	leadEvery = 800
	// otherRoutes is after how many urgent referrals one patient has cancer who
	// came otherwise: by screening, an emergency, another clinic. With the one in 16
	// of those referred they are the 37 thousand new diagnoses of the alliance.
	otherRoutes = 20
)

// patientsOf is how many patients come with so many urgent referrals.
func patientsOf(referrals int) int { return referrals + referrals/otherRoutes }

// Year makes up a year of referrals, has the services decide everything that
// follows from them, and records it in a node. At the end it makes the read
// models, and verifies every rule over the whole log.
func Year(ctx context.Context, opts YearOptions) (r *YearResult, err error) {
	if opts.Referrals == 0 {
		opts.Referrals = AllianceReferrals
	}
	l := &lab{opts: Options{Child: opts.Child}, dir: opts.Dir}
	defer func() { err = errors.Join(err, l.close()) }()
	r = &YearResult{Machine: inspect(opts.Dir), Referrals: opts.Referrals, Refusals: map[string]int{}}
	end, err := profile("year")
	if err != nil {
		return r, err
	}
	defer end()
	y := &year{opts: opts, result: r, lab: l, today: nhs.DateOf(run.Clock()), numbers: map[string]bool{}}
	defer func() {
		for which := range wards {
			err = errors.Join(err, y.leave(which))
		}
	}()
	known, err := os.ReadFile(y.summary())
	if _, e := os.Stat(y.store()); errors.Is(err, fs.ErrNotExist) && e == nil {
		return r, fmt.Errorf("%s holds a year that was not recorded to its end: remove it, or name another folder", opts.Dir)
	}
	if err := y.start(); err != nil {
		return r, err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err = y.fill(ctx); err == nil {
			err = y.end()
		}
	case err == nil:
		machine := r.Machine
		err = json.Unmarshal(known, r)
		r.Machine = machine
	}
	if err != nil {
		return r, err
	}
	for _, f := range []func(context.Context) error{y.grown, y.rebuild, y.verify} {
		if err := f(ctx); err != nil {
			return r, err
		}
	}
	if err := y.node.stop(); err != nil {
		return r, err
	}
	r.DiskBytes, err = sizeOf(y.store())
	r.DiskPerEvent = float64(r.DiskBytes) / float64(r.Events)
	r.MakerBytes = memoryOf(os.Getpid(), "VmHWM")
	r.Machine.LoadAfter = loadAverage()
	return r, err
}

type year struct {
	opts   YearOptions
	result *YearResult
	lab    *lab
	today  nhs.Date
	node   *process     // replaced with each restart
	wards  [wards]*ward // each belongs to its shift

	mu       sync.Mutex // guards what is below while wards work
	done     int
	data     int64
	metadata int64
	numbers  map[string]bool // NHS numbers that are given away
}

func (y *year) progress(what string, done, of int) {
	if y.opts.Progress != nil {
		y.opts.Progress(what, done, of)
	}
}

// number gives a patient an NHS number that nobody else has.
func (y *year) number(j *cohort.Journey) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for y.numbers[cohort.Number(j.Source, j.ID, j.Attempt)] {
		j.Attempt++
	}
	y.numbers[cohort.Number(j.Source, j.ID, j.Attempt)] = true
}

// summary is what is known of a year that is recorded.
func (y *year) summary() string { return filepath.Join(y.opts.Dir, "year.json") }

func (y *year) store() string { return filepath.Join(y.opts.Dir, "store") }

func (y *year) start() (err error) {
	y.node, err = startProcess(y.opts.Child("node", y.store()))
	return err
}

// fill records all patients, in stages that end where growth is measured.
func (y *year) fill(ctx context.Context) error {
	if err := y.plant(ctx); err != nil {
		return err
	}
	n, all := 0, patientsOf(y.opts.Referrals)
	for stage := 0; n < all; stage++ {
		until := all
		if stage < len(growthAt) {
			// The first stages are small, so that the mix of patients hardly matters.
			if per := float64(y.result.Events) / float64(max(1, n)); n == 0 {
				until = min(until, growthAt[0]/30)
			} else {
				until = min(until, n+max(1, int(float64(growthAt[stage]-y.result.Events)/per)))
			}
		}
		began := run.Clock()
		if err := y.patients(ctx, n, until); err != nil {
			return err
		}
		y.result.Seconds += run.Clock().Sub(began).Seconds()
		n = until
		if stage < len(growthAt) && n < all {
			if err := y.grown(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// end closes the wards and writes down what the year came to.
func (y *year) end() error {
	for which := range wards {
		if err := y.leave(which); err != nil {
			return err
		}
	}
	r := y.result
	r.Rate = float64(r.Events) / r.Seconds
	r.DataBytes, r.MetadataBytes = float64(y.data)/float64(r.Events), float64(y.metadata)/float64(r.Events)
	r.RecordMemory = memoryOf(os.Getpid(), "VmHWM")
	summary, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(y.summary(), summary, 0o600)
}

// patients records those from number first to before last, one ward beside the other.
func (y *year) patients(ctx context.Context, first, last int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, wards)
	for which := range wards {
		go func() {
			err := y.shift(ctx, which, first, last)
			if err != nil {
				cancel()
			}
			errs <- err
		}()
	}
	var err error
	for range wards {
		if e := <-errs; e != nil && (err == nil || errors.Is(err, context.Canceled)) {
			err = e
		}
	}
	return err
}

// shift has one of the wards record its share. A wave has a ward of its own,
// with leads of its own: what services keep of patients who are done is let go
// with it.
func (y *year) shift(ctx context.Context, which, first, last int) error {
	out, err := y.recorder(ctx)
	if err != nil {
		return err
	}
	for n := first; n < last; n++ {
		if n%wards != which {
			continue
		}
		if w := y.wards[which]; w == nil || w.wave != n/wave {
			if err := y.leave(which); err != nil {
				return err
			}
			if y.wards[which], err = newWard(n / wave); err != nil {
				return err
			}
		}
		if err := y.admit(ctx, y.wards[which], out, n); err != nil {
			return fmt.Errorf("patient %d: %w", n, err)
		}
	}
	return out.close()
}

// leave closes a ward, if it is open, and counts what it did.
func (y *year) leave(which int) error {
	w := y.wards[which]
	if w == nil {
		return nil
	}
	y.wards[which] = nil
	y.mu.Lock()
	defer y.mu.Unlock()
	y.result.Commands += w.commands
	for code, n := range w.refusals {
		y.result.Refusals[code] += n
	}
	return w.close()
}

// admit records one patient.
func (y *year) admit(ctx context.Context, w *ward, out *recorder, n int) error {
	j, diagnosed := y.patient(n)
	y.number(j)
	if j.Home != nil && len(w.draft.streams["neighbourhood-"+j.Home.ID]) == 0 {
		if err := w.set(ctx, j.Home.Steps(yearSource)); err != nil {
			return err
		}
	}
	if j.Lead != nil && len(w.draft.streams["lead-"+j.Lead.ID]) == 0 {
		if err := w.set(ctx, j.Lead.Steps(yearSource, j.Home.ID)); err != nil {
			return err
		}
	}
	if err := w.journey(ctx, j, y.today); err != nil {
		return err
	}
	var events int
	var data, metadata int64
	for _, a := range w.draft.handOver() {
		events += len(a.events)
		for _, e := range a.events {
			data, metadata = data+int64(len(e.Data)), metadata+int64(len(e.Metadata))
		}
		if err := out.record(a); err != nil {
			return err
		}
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.done++
	y.data, y.metadata, y.result.Events = y.data+data, y.metadata+metadata, y.result.Events+events
	if diagnosed {
		y.result.Diagnosed++
	}
	y.progress("patients", y.done, patientsOf(y.opts.Referrals))
	return nil
}

// recorder appends drafts to the node, many at a time and in order.
type recorder struct {
	call  streamspb.Streams_BatchAppendClient
	conn  io.Closer
	slots chan struct{}
	ended chan error
}

func (y *year) recorder(ctx context.Context) (*recorder, error) {
	conn, err := dialBare(y.node.address)
	if err != nil {
		return nil, err
	}
	call, err := streamspb.NewStreamsClient(conn).BatchAppend(ctx)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	r := &recorder{call: call, conn: conn, slots: make(chan struct{}, 512), ended: make(chan error, 1)}
	go func() {
		for {
			answer, err := call.Recv()
			switch {
			case errors.Is(err, io.EOF):
				r.ended <- nil
				return
			case err == nil && answer.GetSuccess() == nil:
				err = fmt.Errorf("an append was refused: %s", answer.GetError().GetMessage())
				fallthrough
			case err != nil:
				r.ended <- err
				return
			}
			<-r.slots
		}
	}()
	return r, nil
}

func (r *recorder) record(a drafted) error {
	select {
	case r.slots <- struct{}{}:
	case err := <-r.ended:
		r.ended <- err
		return errors.Join(errors.New("the node takes no more"), err)
	}
	options := &streamspb.BatchAppendReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(a.stream)}}
	if a.expected == es.NoStream {
		options.ExpectedStreamPosition = &streamspb.BatchAppendReq_Options_NoStream{NoStream: &emptypb.Empty{}}
	} else {
		options.ExpectedStreamPosition = &streamspb.BatchAppendReq_Options_StreamPosition{StreamPosition: uint64(a.expected)}
	}
	req := &streamspb.BatchAppendReq{CorrelationId: textID(uuid.New()), Options: options, IsFinal: true}
	for _, e := range a.events {
		req.ProposedMessages = append(req.ProposedMessages, &streamspb.BatchAppendReq_ProposedMessage{Id: textID(e.ID), Data: e.Data, CustomMetadata: e.Metadata,
			Metadata: map[string]string{"type": e.Type, "content-type": "application/octet-stream"}})
	}
	return r.call.Send(req)
}

func textID(id uuid.UUID) *shared.UUID {
	return &shared.UUID{Value: &shared.UUID_String_{String_: id.String()}}
}

func (r *recorder) close() error {
	return errors.Join(r.call.CloseSend(), <-r.ended, r.conn.Close())
}

// patient is number n of the year: of those referred urgently 1 in 16 has cancer.
// Everything is drawn from the seed and the number alone.
func (y *year) patient(n int) (j *cohort.Journey, diagnosed bool) {
	rng := rand.New(rand.NewPCG(y.opts.Seed, uint64(n)))
	trust := cohort.Organisation{Code: []string{"RJ1", "RYJ", "RRV", "RAL"}[rng.IntN(4)], Name: "Trust"}
	names := slices.Sorted(maps.Keys(cohort.Sites))
	site := cohort.Sites[names[rng.IntN(len(names))]]
	received := y.today.AddDays(-730 + rng.IntN(365)) // all of it is over by today
	seen := received.AddDays(3 + rng.IntN(11))
	j = &cohort.Journey{
		Source: yearSource, ID: fmt.Sprintf("%d-%d", y.opts.Seed, n), At: cohort.Place{File: yearSource, Line: n}, AsOf: y.today.String(), Sent: received.Start(),
		Family: "Test", Given: []string{"Pat"}, Born: date(received, -365*(35+rng.IntN(50))), Practice: cohort.Organisation{Code: fmt.Sprintf("G%05d", 80000+n%400), Name: "Practice"},
	}
	c := &cohort.Course{Site: site, ID: "1", Team: trust, Received: received.String(), Source: "03", Seen: seen.String()}
	j.Courses = []*cohort.Course{c}
	contact := func(d nhs.Date, purpose string) {
		start := at(d, 9+rng.IntN(7), 15*rng.IntN(4))
		c.Contacts = append(c.Contacts, cohort.Contact{ID: fmt.Sprintf("%s-%d", j.ID, len(c.Contacts)), Start: start, End: start.Add(20 * time.Minute), Remote: rng.IntN(4) == 0, At: trust, Purpose: purpose})
	}
	contact(seen, "First appointment")
	if n%(otherRoutes+1) == otherRoutes {
		c.Source, diagnosed = []string{"10", "17"}[rng.IntN(2)], true // an emergency department, a screening programme
	} else {
		diagnosed = (n-n/(otherRoutes+1))%16 == 0
	}
	if !diagnosed {
		for i := range 2 + rng.IntN(4) {
			contact(seen.AddDays(2+4*i+rng.IntN(4)), "Test")
		}
		ruled := seen.AddDays(10 + rng.IntN(20))
		c.RuledOut, c.Closed, c.Reason = ruled.String(), date(ruled, 1), referralv1.CloseReason_CLOSE_REASON_CANCER_RULED_OUT
		return j, false
	}
	told := seen.AddDays(10 + rng.IntN(25))
	c.Told, c.Stage, c.Plan = told.String(), fmt.Sprint(1+rng.IntN(4)), true
	c.Needs = &cohort.Assessment{On: date(told, 5)}
	for _, code := range []string{"physical.fatigue", "emotional.worry", "physical.sleep"}[:rng.IntN(3)] {
		c.Needs.Concerns = append(c.Needs.Concerns, cohort.Concern{Code: code, Score: int32(3 + rng.IntN(7))})
	}
	decided := told.AddDays(7 + rng.IntN(10))
	last := decided
	for i := range 1 + rng.IntN(3) {
		begun := decided.AddDays(10 + 60*i)
		last = begun.AddDays(20 + rng.IntN(25))
		c.Treatment = append(c.Treatment, cohort.Treatment{Decided: date(decided, 60*i), Started: begun.String(), Ended: last.String(), Modality: []string{"01", "02", "05"}[i], Setting: referralv1.TreatmentSetting_TREATMENT_SETTING_OUTPATIENT})
	}
	c.Treatment[len(c.Treatment)-1].Last = true
	c.Arrangement = referralv1.FollowUpArrangement_FOLLOW_UP_ARRANGEMENT_CLINIC
	for i := range 12 + rng.IntN(10) {
		contact(told.AddDays(3+9*i), "Clinic")
	}
	if rng.IntN(4) > 0 {
		id := fmt.Sprintf("year-%d-%d", n/wave, n%wards)
		host := cohort.Organisation{Code: "RYK", Name: "Community"}
		j.Home = &cohort.Neighbourhood{ID: id, Name: "Neighbourhood " + id, Host: host, Practices: []string{fmt.Sprintf("Y%05d", wards*(n/wave)+n%wards)}}
		j.Practice.Code = j.Home.Practices[0]
		j.Lead = &cohort.Lead{ID: fmt.Sprintf("%s-%d", id, n%wave/leadEvery), Name: "Lead", User: "555000000001", Organisation: host.Code, Capacity: 100}
		c.Handover, c.Contacted = cohort.Accepted, date(last, 45)
	}
	return j, true
}

// oldStreams is in the names of the streams that growth reads; they are the first
// of the log and have readSizes events.
var oldStreams = uuid.NewSHA1(uuid.Nil, []byte("old"))

var readSizes = [...]int{10, 100, 1000}

// plant appends the old streams.
func (y *year) plant(ctx context.Context) error {
	conn, err := dialBare(y.node.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	old, err := newAppender(conn, len(readSizes), "bench.Happened")
	if err != nil {
		return err
	}
	old.run = oldStreams
	for i, n := range readSizes {
		if err := old.append(ctx, i, n); err != nil {
			return err
		}
	}
	return nil
}

// times of so many calls of f, one after the other.
func times(n int, f func() error) (Times, error) {
	took := make([]time.Duration, n)
	for i := range took {
		s, err := elapsed(f)
		if err != nil {
			return Times{}, err
		}
		took[i] = time.Duration(s * 1e9)
	}
	return Times{micros(quantile(took, 0.5)), micros(quantile(took, 0.99))}, nil
}

// grown measures what things cost now.
func (y *year) grown(ctx context.Context) error {
	g := Growth{Events: y.result.Events}
	if err := y.node.kill(); err != nil {
		return err
	}
	var err error
	if g.Start, err = elapsed(func() error { return errors.Join(y.start(), firstAnswer(ctx, y.node.address)) }); err != nil {
		return err
	}
	g.Memory = memoryOf(y.node.cmd.Process.Pid, "VmRSS")
	conn, err := dialBare(y.node.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	a, err := newAppender(conn, inFlight+1, "bench.Happened")
	if err != nil {
		return err
	}
	if g.Append, err = a.rate(inFlight, 1)(ctx, cmp.Or(y.opts.appending, 3*time.Second)); err != nil {
		return err
	}
	if g.One, err = times(200, func() error { return a.append(ctx, inFlight, 1) }); err != nil {
		return err
	}
	log, err := es.Open(es.Config{URL: storeURL(y.node.address)})
	if err != nil {
		return err
	}
	defer log.Close()
	old := &appender{run: oldStreams}
	for i, into := range []*Times{&g.Read10, &g.Read100, &g.Read1000} {
		*into, err = times(200, func() error {
			n := 0
			if err := log.Read(ctx, old.stream(i), 0, func(es.Recorded) error { n++; return nil }); err != nil || n != readSizes[i] {
				return fmt.Errorf("%d events read, not %d: %w", n, readSizes[i], err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	g.After = memoryOf(y.node.cmd.Process.Pid, "VmRSS")
	y.result.Growth = append(y.result.Growth, g)
	return nil
}

// rebuild makes the read models of the whole log.
func (y *year) rebuild(ctx context.Context) (err error) {
	log, err := es.Open(es.Config{URL: storeURL(y.node.address)})
	if err != nil {
		return err
	}
	defer log.Close()
	head, err := log.Head(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(y.opts.Dir, "models")
	y.progress("read models", 0, 1)
	y.result.Rebuild, err = elapsed(func() error {
		return y.lab.rebuild(ctx, y.node.address, dir, head, func(p *process) (err error) {
			y.result.RebuildMemory = memoryOf(p.cmd.Process.Pid, "VmHWM")
			y.result.ModelBytes, err = sizeOf(dir)
			return err
		})
	})
	y.progress("read models", 1, 1)
	y.result.RebuildRate = float64(y.result.Events) / y.result.Rebuild
	return err
}

// verify reads the whole log and checks every rule of it.
func (y *year) verify(ctx context.Context) (err error) {
	log, err := es.Open(es.Config{URL: storeURL(y.node.address)})
	if err != nil {
		return err
	}
	defer log.Close()
	v, err := allinone.NewLongVerifier()
	if err != nil {
		return err
	}
	defer v.Close()
	y.result.Verify, err = elapsed(func() error {
		err := log.ReadAll(ctx, 0, func(e es.Recorded) error {
			if v.Events%10_000 == 0 {
				y.progress("read", v.Events, max(v.Events, y.result.Events))
			}
			return v.Next(e)
		})
		if err != nil {
			return err
		}
		return v.End(ctx, func(done, of int) { y.progress("parts verified", done, of) })
	})
	y.result.Verdict = &v.Verdict
	return err
}

// sizeOf is how many bytes the files below a folder have.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		size += info.Size()
		return err
	})
	return size, err
}

// memoryOf a process in bytes, by a line of its status; 0 where the system does
// not tell.
func memoryOf(pid int, line string) int64 {
	var kib int64
	if _, err := fmt.Sscanf(field(fmt.Sprintf("/proc/%d/status", pid), line), "%d", &kib); err != nil {
		return 0
	}
	return kib << 10
}

// Write prints the year for people, or where markdown is set for a README.
func (r *YearResult) Write(w io.Writer, markdown bool) error {
	mib := func(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }
	rows := [][]string{
		{"referrals, of them with cancer", fmt.Sprintf("%d, %d", r.Referrals, r.Diagnosed)},
		{"events, of a referral", fmt.Sprintf("%d, %.1f", r.Events, float64(r.Events)/float64(r.Referrals))},
		{"recorded in, at", fmt.Sprintf("%.0f s, %s events/s", r.Seconds, figure(r.Rate))},
		{"an event before compression", fmt.Sprintf("%.0f bytes: data %.0f, metadata %.0f", r.DataBytes+r.MetadataBytes, r.DataBytes, r.MetadataBytes)},
		{"disk", fmt.Sprintf("%s, %.0f bytes an event", mib(r.DiskBytes), r.DiskPerEvent)},
		{"read models made anew in, at", fmt.Sprintf("%.1f s, %s events/s; %s", r.Rebuild, figure(r.RebuildRate), mib(r.ModelBytes))},
		{"verified in, faults", fmt.Sprintf("%.1f s, %d", r.Verify, r.Verdict.Faults)},
		{"pathways, transfers of accountability", fmt.Sprintf("%d, %d", r.Verdict.Pathways, r.Verdict.Transfers)},
		{"memory at most: recording, making the read models, verifying", mib(r.RecordMemory) + ", " + mib(r.RebuildMemory) + ", " + mib(r.MakerBytes)},
	}
	if err := writeRows(w, markdown, []string{"a year", ""}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for _, g := range r.Growth {
		rows = append(rows, []string{figure(float64(g.Events)), figure(g.Append) + "/s", g.One.String(), g.Read10.String(), g.Read100.String(), g.Read1000.String(), fmt.Sprintf("%.2f s", g.Start), mib(g.Memory) + ", " + mib(g.After)})
	}
	if err := writeRows(w, markdown, []string{"events in the log", "appends by 64", "one append, p50 / p99 us", "read of 10, us", "of 100", "of 1,000", "start", "node's memory then, later"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", r.Machine.describe())
	for _, code := range slices.Sorted(maps.Keys(r.Refusals)) {
		fmt.Fprintf(w, "refused: %s, %d times\n", strings.TrimSpace(code), r.Refusals[code])
	}
	return err
}
