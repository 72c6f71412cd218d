package main

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	devv1 "waymark/proto/waymark/dev/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/cohort"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

const (
	// reactionTime is how long a journey waits for what services do when they hear of
	// what it told them.
	reactionTime = 2 * time.Minute
	// outage is for how long a journey waits for services that are down.
	outage = 5 * time.Second
	// callTimeout bounds one command of an import; it queues behind others.
	callTimeout = 20 * time.Second
)

// sender sends commands of journeys.
type sender struct {
	conn     grpc.ClientConnInterface
	head     es.Position
	methods  map[protoreflect.FullName]method
	approved func(protocol, organisation string) bool
	today    nhs.Date

	mu    sync.Mutex
	homes map[string]*sync.Once // neighbourhoods and leads that are set up
	errs  map[string]error
}

// outcome of one step.
type outcome int

const (
	taken outcome = iota
	duplicate
	refused
	skipped
)

func newSender(ctx context.Context, conn grpc.ClientConnInterface, head es.Position) (*sender, error) {
	s := &sender{conn: conn, head: head, methods: map[protoreflect.FullName]method{}, homes: map[string]*sync.Once{}, errs: map[string]error{}, today: nhs.DateOf(time.Now())}
	// The clock of waymark dev may be ahead of the machine's.
	if now, err := devv1.NewClockServiceClient(conn).GetClock(ctx, &devv1.GetClockRequest{}); err == nil {
		s.today = nhs.DateOf(now.GetNow().AsTime())
	} else if codeOf(err) != codes.Unimplemented {
		return nil, err
	}
	for _, m := range contract() {
		s.methods[m.desc.Input().FullName()] = m
	}
	reply, err := planv1.NewPlanServiceClient(conn).ListProtocols(ctx, &planv1.ListProtocolsRequest{})
	if err != nil {
		return nil, err
	}
	s.approved = func(protocol, organisation string) bool {
		return slices.ContainsFunc(reply.Protocols, func(p *planv1.Protocol) bool {
			return p.Protocol == protocol && slices.Contains(p.ApprovedBy, organisation)
		})
	}
	return s, nil
}

// call sends one request by the method that takes it. An outage is waited out for
// a while; an answer is returned at once.
func (s *sender) call(ctx context.Context, request proto.Message) (proto.Message, error) {
	m, ok := s.methods[request.ProtoReflect().Descriptor().FullName()]
	if !ok {
		return nil, fmt.Errorf("no method takes %s", request.ProtoReflect().Descriptor().Name())
	}
	typ, err := protoregistry.GlobalTypes.FindMessageByName(m.desc.Output().FullName())
	if err != nil {
		return nil, err
	}
	for attempt := 0; ; attempt++ {
		reply := typ.New().Interface()
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := s.conn.Invoke(call, m.path(), request, reply)
		cancel()
		if err == nil || fault.IsAnswer(err) || attempt == 5 || ctx.Err() != nil {
			return reply, err
		}
		// Aborted, unavailable, too slow: the same command again is the same command.
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond << attempt):
		}
	}
}

// send sends a request and says whether it had been taken before this run.
func (s *sender) send(ctx context.Context, request proto.Message) (proto.Message, outcome, error) {
	reply, err := s.call(ctx, request)
	if err != nil {
		return nil, refused, err
	}
	if r, ok := reply.(interface{ GetReceipt() *metav1.Receipt }); ok && es.Position(r.GetReceipt().GetPosition()) <= s.head {
		return reply, duplicate, nil
	}
	return reply, taken, nil
}

// once sets something up that several journeys need.
func (s *sender) once(key string, do func() error) error {
	s.mu.Lock()
	once := s.homes[key]
	if once == nil {
		once = &sync.Once{}
		s.homes[key] = once
	}
	s.mu.Unlock()
	once.Do(func() {
		err := do()
		s.mu.Lock()
		s.errs[key] = err
		s.mu.Unlock()
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.errs[key]
}

// note is told of each step's outcome.
type note func(step cohort.Step, o outcome, err error)

// journey sends the steps of one journey. It ends early where a step was refused
// that the rest stands on; that is said by whole. An error is no answer: the
// import cannot go on.
func (s *sender) journey(ctx context.Context, j *cohort.Journey, said note) (whole bool, err error) {
	if err := s.home(ctx, j, said); err != nil {
		return false, err
	}
	k := &cohort.Known{Today: s.today, Attempt: j.Attempt, Appointments: map[string]string{}, Approved: s.approved}
	whole = true
	for _, step := range cohort.Steps(j) {
		o, err := s.step(ctx, k, step)
		if err != nil && !fault.IsAnswer(err) {
			return false, fmt.Errorf("%s, %s: %w", step.At, step.Name, err)
		}
		said(step, o, err)
		if o == refused {
			whole = false
			if !step.Optional {
				return false, nil
			}
		}
	}
	return whole, nil
}

// home sets up the lead of a journey, once.
func (s *sender) home(ctx context.Context, j *cohort.Journey, said note) error {
	if j.Lead == nil || j.Home == nil || !slices.ContainsFunc(j.Courses, func(c *cohort.Course) bool { return c.Handover != cohort.NoHandover }) {
		return nil
	}
	return s.once("lead/"+j.Lead.ID, func() error {
		return s.all(ctx, j.Lead.Steps(j.Source, j.Home.ID), "lead", j.At, said)
	})
}

// all sends requests of which each must be taken.
func (s *sender) all(ctx context.Context, requests []proto.Message, name string, at cohort.Place, said note) error {
	for _, r := range requests {
		_, o, err := s.send(ctx, r)
		if err != nil && !fault.IsAnswer(err) {
			return fmt.Errorf("%s, %s: %w", at, name, err)
		}
		said(cohort.Step{Name: name, At: at}, o, err)
	}
	return nil
}

// neighbourhood defines one, or adds the practices that it does not serve yet.
func (s *sender) neighbourhood(ctx context.Context, source string, n *cohort.Neighbourhood, said note) error {
	at := cohort.Place{File: n.ID}
	got, err := careleadv1.NewNeighbourhoodServiceClient(s.conn).GetNeighbourhood(ctx, &careleadv1.GetNeighbourhoodRequest{NeighbourhoodId: n.ID})
	switch {
	case status.Code(err) == codes.NotFound:
		return s.all(ctx, n.Steps(source), "neighbourhood", at, said)
	case err != nil:
		return err
	}
	served := slices.Concat(got.Neighbourhood.GetPractices(), n.Practices)
	slices.Sort(served)
	switch served = slices.Compact(served); {
	case len(served) > len(got.Neighbourhood.GetPractices()):
		return s.all(ctx, []proto.Message{n.Serve(source, served), n.Steps(source)[1]}, "neighbourhood", at, said)
	case len(served) > len(n.Practices): // an earlier import knew more of them
		return s.all(ctx, n.Steps(source)[1:], "neighbourhood", at, said)
	}
	return s.all(ctx, n.Steps(source), "neighbourhood", at, said)
}

// step sends one step; its error is an answer where the step is refused.
func (s *sender) step(ctx context.Context, k *cohort.Known, step cohort.Step) (outcome, error) {
	k.Turn(step.Pathway)
	if step.Ready != nil {
		if err := s.await(ctx, k, step); err != nil {
			return refused, err
		}
	}
	for range 100 {
		request := step.Request(k)
		if request == nil {
			return skipped, nil
		}
		reply, o, err := s.send(ctx, request)
		if step.Daily && fault.CodeOf(err) == "command.id_reused" {
			return duplicate, nil
		}
		if step.Again != nil && (err == nil || fault.CodeOf(err) == step.Taken) {
			if err == nil {
				k.Learn(step, reply)
				if !step.Again(k) {
					return o, nil
				}
			}
			k.Attempt++
			continue
		}
		if err != nil {
			return o, err
		}
		k.Learn(step, reply)
		return o, nil
	}
	return refused, fault.Refused("import.number", "no free NHS number of the test range was found in a hundred attempts")
}

// await reads the plan and the ledger until a step can be sent.
func (s *sender) await(ctx context.Context, k *cohort.Known, step cohort.Step) error {
	offers := referralv1.NewReferralServiceClient(s.conn)
	plans, ledgers := planv1.NewPlanServiceClient(s.conn), careleadv1.NewHandoverServiceClient(s.conn)
	answered := time.Now()
	// down is an outage that has lasted.
	down := func(err error) bool {
		switch {
		case err == nil, fault.IsAnswer(err):
			answered = time.Now()
		case codeOf(err) != codes.Unavailable || time.Since(answered) > outage:
			return true
		}
		return false
	}
	for wait, begun := 2*time.Millisecond, time.Now(); ; wait = min(2*wait, 100*time.Millisecond) {
		if step.Ready(k) {
			return nil
		}
		plan, err := plans.GetPlan(ctx, &planv1.GetPlanRequest{PathwayId: step.Pathway})
		if down(err) {
			return err
		}
		ledger, err := ledgers.GetLedger(ctx, &careleadv1.GetLedgerRequest{PathwayId: step.Pathway})
		if down(err) {
			return err
		}
		referrals, err := offers.ListReferrals(ctx, &referralv1.ListReferralsRequest{PathwayId: step.Pathway})
		if down(err) {
			return err
		}
		k.Offered = len(referrals.GetOffers()) > 0
		if plan.GetRecord() != nil {
			k.Plan = plan.Record
		}
		if ledger.GetLedger() != nil {
			k.Ledger = ledger.Ledger
		}
		if step.Ready(k) {
			return nil
		}
		if time.Since(begun) > reactionTime {
			return fmt.Errorf("the services did not react within %s; is the bus running?", reactionTime)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// cohorts imports folders of Synthea.
func (im *importer) cohorts(ctx context.Context, folders map[string]fs.FS) error {
	read, err := cohort.Synthea(folders, cohort.Options{Trust: im.o.Trust})
	if err != nil {
		return err
	}
	s := im.counting("Synthea cohort", "commands", len(folders))
	s.Rows, s.BadRows, s.Patients = read.Rows, len(read.Faults), len(read.Journeys)
	for _, f := range read.Faults {
		im.because(s, "row: "+f.Field+" "+f.Code, f.At.String())
	}
	if im.o.DryRun {
		for _, j := range read.Journeys {
			s.Read += len(cohort.Steps(j))
		}
		return nil
	}
	begun := time.Now()
	defer func() { s.Seconds = time.Since(begun).Seconds() }()
	to, err := newSender(ctx, im.conn, im.head)
	if err != nil {
		return err
	}
	said := func(step cohort.Step, o outcome, err error) {
		im.mu.Lock()
		defer im.mu.Unlock()
		switch o {
		case taken:
			s.Taken++
		case duplicate:
			s.Duplicate++
		case refused:
			s.Refused++
			im.because(s, step.Name[:indexOr(step.Name, '/')]+": "+why(err), step.At.String())
		}
		if o != skipped {
			s.Read++
		}
	}
	for _, n := range read.Neighbourhoods {
		if err := to.neighbourhood(ctx, "synthea", n, said); err != nil {
			return err
		}
	}
	return im.journeys(ctx, to, read.Journeys, said, func(whole bool) {
		if whole {
			s.Whole++
		}
	})
}

// journeys sends many, some at a time.
func (im *importer) journeys(ctx context.Context, to *sender, journeys []*cohort.Journey, said note, done func(whole bool)) error {
	bar := im.c.progress("imported patients")
	defer bar.end()
	n := 0
	return eachOf(len(journeys), im.o.Parallel, func(i int) error {
		whole, err := to.journey(ctx, journeys[i], said)
		if err != nil {
			return err
		}
		im.mu.Lock()
		defer im.mu.Unlock()
		n++
		done(whole)
		bar.set(uint64(n), uint64(len(journeys)))
		return nil
	})
}

func indexOr(text string, of byte) int {
	if i := slices.Index([]byte(text), of); i >= 0 {
		return i
	}
	return len(text)
}

// why is the code of a refusal, with the field that it names.
func why(err error) string {
	code := fault.CodeOf(err)
	if code == "" {
		code = codeOf(err).String()
	}
	for _, field := range fieldsOf(err) {
		return code + " " + field
	}
	return code
}
