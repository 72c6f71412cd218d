package sim

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/edge/v1"
	metav1 "waymark/proto/waymark/meta/v1"

	"waymark/services/kit/es"
	"waymark/services/kit/mllp"
)

// sent is a message of a feed.
type sent struct {
	feed, patient, number int
	text                  string
	answers               [][]byte // owned by the sender: each that it heard
}

// feed sends messages as a trust's interface engine does: the next when the one
// before was answered, and the same again for as long as it was not.
type feed struct {
	w    *world
	a    *actor
	conn net.Conn
	in   *bufio.Reader
}

// feeds starts the senders, and somebody who looks after what was parked.
func (w *world) feeds(all *sync.WaitGroup) {
	if w.front == nil {
		return
	}
	var open atomic.Int32
	for n := range w.opt.Feeds {
		f := &feed{w: w, a: w.actor(fmt.Sprint("feed ", n))}
		w.mu.Lock()
		w.history.links = append(w.history.links, f.a) // it can be cut off
		w.mu.Unlock()
		messages := f.messages(n)
		w.sent = append(w.sent, messages...)
		open.Add(1)
		all.Go(func() {
			defer open.Add(-1)
			f.send(messages)
		})
	}
	a := w.actor("operator")
	edge := pb.NewEdgeServiceClient(&caller{wire{a, w.life}, w.front.now})
	all.Go(func() { w.operate(a, edge, &open) })
}

// subjects are of nobody: their numbers are of the range for tests.
func subjects() []string { return []string{"9990000077", "9990000085", "9990000093"} }

// messages draws what a feed tells: the first of referrals, bookings and who the
// patients are, the second of results and documents, which come too early where
// nobody has told of the patient.
func (f *feed) messages(n int) (all []*sent) {
	tell := []func(*teller){registry, laboratory}[n%2]
	var lives [][]*sent
	total := 0
	for p := range f.w.opt.Subjects {
		t := &teller{f: f, feed: n, patient: p}
		tell(t)
		lives = append(lives, t.said)
		total += len(t.said)
	}
	for len(all) < total { // one patient's in order, among those of the others
		p := f.a.draw("whose").IntN(len(lives))
		for len(lives[p]) == 0 {
			p = (p + 1) % len(lives)
		}
		all, lives[p] = append(all, lives[p][0]), lives[p][1:]
	}
	return all
}

// teller writes the messages about one patient.
type teller struct {
	f             *feed
	feed, patient int
	said          []*sent
}

func (t *teller) chance(percent int) bool { return chance(t.f.a.draw("tell"), percent) }

// say adds a message. Each was said a minute after the one before.
func (t *teller) say(kind, more, rest string) {
	n, facility := len(t.said), "RJ1"
	if kind == "ADT^A31" && t.chance(15) {
		facility = "St Elsewhere" // somebody has to correct it
	}
	at := time.Date(2026, 6, 1, 12, n, 0, 0, time.UTC).Format("20060102150405")
	_, trigger, _ := strings.Cut(kind, "^")
	system := []string{"PAS", "LAB"}[t.feed%2]
	t.said = append(t.said, &sent{feed: t.feed, patient: t.patient, number: n, text: fmt.Sprintf(
		"MSH|^~\\&|%s|%s|WAYMARK|X26|%s||%s|%s-%d-%d|P|2.4\rEVN|%s|%s\rPID|1||%s^^^NHS~H%d^^^RJ1||TESTCASE^ANN^^^MRS||19610504|2|||1 HIGH ST^^LEEDS^^LS1 1AA||%s\r%s",
		system, facility, at, kind, system, t.patient, n, trigger, at, subjects()[t.patient], t.patient, more, rest)})
}

func registry(t *teller) {
	booking := func(filler, start, end string) string {
		return fmt.Sprintf("SCH|P1|%s%d|||||Review^Clinic review|TEL|30|MIN|^^^%s^%s||||||||||||||Booked\rAIL|1||Room 3^^^RJ101\r", filler, t.patient, start, end)
	}
	referral := func(rf1 string) string { return fmt.Sprintf(rf1, t.patient) + "\rPRD|RP\r" }
	phone := 0
	moved := func() { phone++; t.say("ADT^A31", fmt.Sprintf("0113000%04d", phone), "") }
	if t.chance(50) { // nobody knows of the patient yet
		t.say("SIU^S12", "", booking("E", "202606070900", "202606070930"))
	}
	if t.chance(50) {
		t.say("ADT^A28", "01130000000", "")
		moved()
	}
	t.say("REF^I12", "", referral("RF1|P|3|01|||REF%d^RJ1|20260601"))
	t.say("SIU^S12", "", booking("F", "202606100900", "202606100930"))
	t.say("SIU^S12", "", booking("G", "202606100915", "202606100945")) // overlaps
	if t.chance(20) {
		t.say("ADT^A28", "", "")
		m := t.said[len(t.said)-1]
		m.text = strings.Replace(m.text, "19610504", "19611350", 1) // no day: it is refused
	}
	t.say("SIU^S13", "", booking("F", "202606110900", "202606110930"))
	moved()
	t.say("REF^I12", "", referral("RF1|P|R|AHP|||R%d|20260602|||X^Stiff shoulder"))
	t.say("SIU^S26", "", booking("F", "202606110900", "202606110930"))
	t.say("SIU^S15", "", booking("G", "202606100915", "202606100945"))
	moved()
}

func laboratory(t *teller) {
	result := func(status string, value int) string {
		return fmt.Sprintf("OBR|1||L%d|2857-1^PSA^LN|||202606021000||||||||||||||||||%s\rOBX|1|NM|2857-1^PSA^LN||%d|ug/L|0-4|H|||%s\r", t.patient, status, value, status)
	}
	document := func(status string) string {
		return fmt.Sprintf("TXA|1|CL|TX|20260602||||||||D%d|||||%s\r", t.patient, status)
	}
	t.say("ORU^R01", "", result("F", 8))
	t.say("MDM^T02", "", document("DI"))
	t.say("ORU^R01", "", result("C", 9))
	t.say("MDM^T08", "", document("AU"))
	t.say("ORU^R01", "", result("C", 10))
	t.say("MDM^T08", "", document("LA"))
	for value := range 4 {
		t.say("ORU^R01", "", result("C", 11+value))
	}
}

// engine is how long an engine waits for an answer: a little longer than the edge
// may take.
const engine = 10 * time.Second

func (f *feed) send(messages []*sent) {
	for _, m := range messages {
		_ = f.a.wait(f.w.life, "think", 50*time.Millisecond)
		for try := 0; f.w.life.Err() == nil; try++ {
			if try > 0 {
				f.w.count(func(r *Result) { r.Repeats++ })
				_ = f.a.wait(f.w.life, "retry", 20*time.Millisecond<<min(try, 5))
			}
			answer := f.exchange(m)
			if answer == nil {
				continue
			}
			m.answers = append(m.answers, answer)
			// A queue that was restored sends what was answered before.
			if !f.w.faulty() || !chance(f.a.draw("restored"), f.w.opt.Repeated) {
				break
			}
		}
	}
	f.hangUp()
}

// hangUp breaks the connection, as it seems to both.
func (f *feed) hangUp() {
	if f.conn != nil {
		f.conn.Close()
		f.conn = nil
	}
}

// exchange sends a message and returns its answer, nil where none came. Then the
// connection is gone, as every engine has it.
func (f *feed) exchange(m *sent) (answer []byte) {
	defer func() {
		if answer == nil {
			f.hangUp()
		}
	}()
	fate := wire{f.a, f.w.life}.fate("message")
	if f.a.wait(f.w.life, "write", f.w.opt.Delay) != nil || fate.dropped || f.w.cutOff(f.a) {
		return nil
	}
	if f.conn == nil {
		l := f.w.front.alive()
		if l == nil {
			return nil
		}
		conn, err := l.mllp.DialContext(l.ctx)
		if err != nil {
			return nil
		}
		f.conn, f.in = conn, bufio.NewReader(conn)
	}
	frame := mllp.Frame([]byte(m.text))
	if f.w.faulty() && chance(f.a.draw("half"), 3) { // it breaks within the message
		_, _ = f.conn.Write(frame[:f.a.draw("much").IntN(len(frame))])
		return nil
	}
	if _, err := f.conn.Write(frame); err != nil {
		return nil
	}
	f.hand(m, true)
	defer f.hand(m, false)
	if fate.unheard { // it breaks at any moment until the answer, or with it
		if f.a.wait(f.w.life, "break", 200*time.Millisecond); true {
			return nil
		}
	}
	f.conn.SetReadDeadline(time.Now().Add(engine))
	answer, err := mllp.Read(f.in, mllp.MaxMessage)
	if err != nil {
		return nil
	}
	if f.a.wait(f.w.life, "answer", f.w.opt.Delay) != nil || f.w.cutOff(f.a) {
		return nil
	}
	return answer
}

// hand notes which messages the edge has in hand.
func (f *feed) hand(m *sent, in bool) {
	f.w.front.mu.Lock()
	defer f.w.front.mu.Unlock()
	if in {
		f.w.front.hands[f.a.name] = m.number
	} else {
		delete(f.w.front.hands, f.a.name)
	}
}

// operate has what was parked applied again, the oldest first, until the feeds have
// ended and nothing of what can be helped is left.
func (w *world) operate(a *actor, edge pb.EdgeServiceClient, open *atomic.Int32) {
	command := func(what string) *metav1.Command {
		return &metav1.Command{CommandId: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, w.seed, what)).String(), Actor: &metav1.Actor{User: "555000222", RoleCode: "R0050", Organisation: "RJ1"}}
	}
	for w.life.Err() == nil {
		_ = a.wait(w.life, "look", time.Second)
		ended := open.Load() == 0
		var list *pb.ListMessagesReply
		if err := w.untilAnswered(a, 3*time.Second, func(ctx context.Context) (err error) {
			list, err = edge.ListMessages(ctx, &pb.ListMessagesRequest{State: pb.MessageState_MESSAGE_STATE_PARKED})
			return err
		}); err != nil {
			if w.life.Err() == nil {
				w.fail("the parked messages were not listed: %v", err)
			}
			return
		}
		left := 0
		for _, m := range list.Messages {
			req := &pb.RedriveMessageRequest{MessageId: m.MessageId, Command: command("redrive " + m.MessageId)}
			switch m.Reason.GetCode() {
			case "edge.apply.failed", "edge.waits_behind":
			case "edge.facility.unknown":
				req.Corrections = []*pb.Correction{{Path: "MSH-4", Value: "RJ1"}}
			case "edge.patient.unknown", "edge.pathway.none": // the edge's own to redrive
				left++
				continue
			default:
				continue
			}
			left++
			err := w.untilAnswered(a, 9*time.Second, func(ctx context.Context) error {
				_, err := edge.RedriveMessage(ctx, req)
				return err
			})
			if err != nil && !refusal(err) && w.life.Err() == nil {
				w.fail("a redrive was answered with %v", err)
			}
		}
		if ended && left == 0 {
			return
		}
	}
}

// kept is a message as the log has it.
type kept struct {
	*pb.MessageReceived
	at       es.Position
	outcomes []proto.Message
}

// messages holds what the feeds were told, and what the services recorded, against
// the messages in the log.
func (r *Result) messages(w *world) {
	if w.front == nil {
		return
	}
	all, raw, commands := map[string]*kept{}, map[string][]*kept{}, map[string]bool{}
	for _, e := range w.log {
		m, err := es.ParseMetadata(e)
		if err != nil {
			continue // it is a checkpoint's
		}
		commands[m.CommandID.String()] = true
		category, id, _ := strings.Cut(e.Stream, "-")
		if category != "message" {
			continue
		}
		event, err := es.Decode(e)
		if err != nil {
			r.unexplained("%v", err)
			continue
		}
		switch m := event.(type) {
		case *pb.MessageReceived:
			if all[id] != nil {
				r.doubled("message %s was kept twice", id)
				continue
			}
			all[id] = &kept{MessageReceived: m, at: e.Position}
			if m.RedriveOf == "" {
				raw[string(m.Raw)] = append(raw[string(m.Raw)], all[id])
			}
		case *pb.MessageApplied, *pb.MessageParked, *pb.MessageRefused:
			if all[id] == nil {
				r.unexplained("message %s has an outcome before it was kept", id)
				continue
			}
			all[id].outcomes = append(all[id].outcomes, event)
		}
	}
	of := r.answered(w, raw)
	if n := len(raw) - len(of); n > 0 {
		r.unexplained("%d messages were kept that nobody sent", n)
	}
	first := func(id string) string { // the message that a redrive began with
		for all[id] != nil && all[id].RedriveOf != "" {
			id = all[id].RedriveOf
		}
		return id
	}
	applied, late := map[string]int{}, map[string]bool{}
	for id, k := range all {
		for _, o := range k.outcomes {
			switch o := o.(type) {
			case *pb.MessageApplied:
				if applied[first(id)]++; applied[first(id)] > 1 {
					r.doubled("message %s was applied twice", first(id))
				}
				r.Outcomes[strings.TrimSpace("applied "+o.Note.GetCode())]++
				for _, effect := range o.Effects {
					if !commands[effect.CommandId] && effect.Command != "person.UpdateDemographics" { // that may find nothing new
						r.lost("message %s was applied, and nothing of its %s is there", id, effect.Command)
					}
				}
			case *pb.MessageParked:
				late[first(id)] = late[first(id)] || !o.Holds
				r.Outcomes["parked "+o.Reason.GetCode()]++
			case *pb.MessageRefused:
				if o.Reason.GetCode() != "edge.field.invalid" {
					r.unexplained("message %s, %s, was refused: %s %s", id, k.Type, o.Reason.GetCode(), o.Reason.GetText())
				}
				r.Outcomes["refused "+o.Reason.GetCode()]++
			}
		}
	}
	r.effects(w, all, of, first, late)
	r.apart(w.front.spans, all, of, first)
}

// answered holds each answer against the log: what was answered is kept once, as it
// was sent, with one outcome, which is the one answered, always in the same words.
// It returns what was sent by the id that it was kept under.
func (r *Result) answered(w *world, raw map[string][]*kept) map[string]*sent {
	of := map[string]*sent{}
	for _, m := range w.sent {
		name := fmt.Sprintf("message %d of feed %d on patient %d", m.number, m.feed, m.patient)
		for _, k := range raw[m.text] {
			of[k.MessageId] = m
		}
		if len(m.answers) == 0 {
			continue // that is noticed by who waits for the feeds
		}
		code, _, _ := strings.Cut(string(m.answers[0][bytes.Index(m.answers[0], []byte("\rMSA|"))+5:]), "|")
		switch as := raw[m.text]; {
		case len(as) == 0:
			r.lost("%s was answered %s and is not in the log", name, code)
		case len(as) > 1:
			r.doubled("%s is in the log %d times", name, len(as))
		case len(as[0].outcomes) == 0:
			r.lost("%s was answered %s and has no outcome", name, code)
		case len(as[0].outcomes) > 1:
			r.doubled("%s has %d outcomes", name, len(as[0].outcomes))
		default:
			if _, refused := as[0].outcomes[0].(*pb.MessageRefused); refused == (code == "AA") {
				r.unexplained("%s was answered %s, its outcome is %T", name, code, as[0].outcomes[0])
			}
		}
		for _, a := range m.answers[1:] {
			if !bytes.Equal(a, m.answers[0]) {
				r.unexplained("%s was answered with %q and then with %q", name, m.answers[0], a)
			}
		}
	}
	return of
}

// effects looks at what messages caused: after they were kept, each once, and of
// one patient in the order of the feed, but for what was parked and made nobody wait.
func (r *Result) effects(w *world, all map[string]*kept, of map[string]*sent, first func(string) string, late map[string]bool) {
	type place struct{ message, stream, event string }
	type line struct{ feed, patient int }
	once, newest := map[place]uuid.UUID{}, map[line]int{}
	for _, e := range w.log {
		m, err := es.ParseMetadata(e)
		if err != nil || !strings.HasPrefix(m.Actor.User, "hl7/") {
			continue
		}
		cause := all[m.CausationID]
		if cause == nil || cause.at > e.Position {
			r.unexplained("%s@%d was caused by a message that was not kept before", e.Stream, e.Revision)
			continue
		}
		id := first(m.CausationID)
		at := place{id, e.Stream, e.Type}
		if by, ok := once[at]; ok && by != m.CommandID {
			r.doubled("%s@%d, %s: message %s did it before", e.Stream, e.Revision, e.Type, id)
		}
		once[at] = m.CommandID
		s := of[id]
		if s == nil || late[id] {
			continue
		}
		if l := (line{s.feed, s.patient}); s.number < newest[l] {
			r.Reordered++
			r.note("%s@%d, %s, is of message %d of feed %d on patient %d, and message %d was applied before", e.Stream, e.Revision, e.Type, s.number, s.feed, s.patient, newest[l])
		} else {
			newest[l] = s.number
		}
	}
}

// apart looks for two messages of one patient that the edge applied at one time.
func (r *Result) apart(spans []span, all map[string]*kept, of map[string]*sent, first func(string) string) {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.begin, b.begin) })
	type at struct{ life, patient int }
	last := map[at]span{}
	for _, s := range spans {
		id := first(s.message)
		if of[id] == nil {
			continue // it was not kept, or the command was nobody's message
		}
		where := at{s.life, of[id].patient}
		before, ok := last[where]
		if ok && s.begin < before.end && first(before.message) != id {
			r.unexplained("messages %s and %s of one patient were applied at one time", first(before.message), id)
		}
		if !ok || s.end > before.end {
			last[where] = s
		}
	}
}
