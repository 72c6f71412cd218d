package edge

import (
	"context"
	_ "embed"
	"encoding/csv"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	planv1 "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// testsCSV says which codes of laboratories mean a test of the surveillance
// protocols. A code that is not in it keeps its own name.
//
//go:embed tests.csv
var testsCSV string

var tests = func() map[string]string {
	rows, err := csv.NewReader(strings.NewReader(testsCSV)).ReadAll()
	if err != nil {
		panic(err) // it is part of the binary
	}
	codes := map[string]string{}
	for _, r := range rows[1:] {
		codes[r[0]] = r[1]
	}
	return codes
}()

// report is one OBR with its OBXs.
type report struct {
	obr segment
	obx []segment
	req *planv1.ReceiveResultRequest
}

// reports are the OBRs of a message in their order.
func (m message) reports() (all []*report) {
	for _, s := range m.segments {
		switch {
		case s.name == "OBR":
			all = append(all, &report{obr: s})
		case s.name == "OBX" && len(all) > 0:
			all[len(all)-1].obx = append(all[len(all)-1].obx, s)
		}
	}
	return all
}

const correctedFirst = "a corrected result came of which no earlier one was recorded: it is taken as the final one"

// results is ORU R01. Every report goes to the plan of the pathway; what matches
// nothing that is waited for is in the reviewer's queue there all the same.
func results(ctx context.Context, w *work) error {
	all := w.m.reports()
	if len(all) == 0 {
		return refuse("edge.field.required", "OBR-4", "the message has no OBR segment")
	}
	if _, err := w.subject(ctx); err != nil {
		return err
	}
	var send []*report
	for _, r := range all {
		pending, err := w.read1(r)
		if err != nil {
			return err
		}
		if !pending {
			send = append(send, r)
		}
	}
	if len(send) == 0 {
		w.noted("edge.result.none", "OBR-25", "the orders have no result yet")
		return nil
	}
	// Everything is found before anything is sent: a message is not half applied.
	var known []*planv1.SurveillanceReply
	var ids []string
	for _, id := range w.pathways() {
		reply, err := w.service.plans.GetSurveillance(ctx, &planv1.GetSurveillanceRequest{PathwayId: id})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return answered(err, "OBR-4")
		}
		known, ids = append(known, reply), append(ids, id)
	}
	send = slices.DeleteFunc(send, func(r *report) bool { return w.thing("result", r.req.ResultId) })
	var again []int // reports that say what is recorded, perhaps by this message before a crash
	for i, r := range send {
		r.req.ResultId = w.derived("result", r.req.ResultId)
		var before *planv1.Result
		for at, k := range known {
			if j := slices.IndexFunc(k.Results, func(x *planv1.Result) bool { return x.ResultId == r.req.ResultId }); j >= 0 {
				r.req.PathwayId, before = ids[at], k.Results[j]
			}
		}
		switch {
		case before == nil:
			id, err := w.pathway(ctx)
			if err != nil {
				return err
			}
			r.req.PathwayId = id
			switch r.req.Status {
			case "C":
				r.req.Status = "F"
				w.noted("edge.result.corrected_first", "OBR-25", correctedFirst)
			case "X":
				send[i] = nil
				w.noted("edge.result.none", "OBR-25", "a cancelled result was never recorded here: there is nothing to cancel")
			}
		case before.Status == "P" || r.req.Status == "C" || r.req.Status == "X":
			// news
		case r.req.Status == "P" || before.Status == r.req.Status && before.Value == r.req.Value && before.OutOfRange == r.req.OutOfRange:
			again = append(again, i)
		default:
			return park("edge.result.final", "OBR-25", "another final result under this number is recorded: if this one corrects it, redrive it with OBR-25 = C")
		}
	}
	for i, r := range send {
		if r == nil {
			continue
		}
		_, err := w.service.plans.ReceiveResult(ctx, r.req)
		if fault.CodeOf(err) == "command.id_reused" && r.req.Status == "C" {
			// Before a crash this message found no earlier one and was taken as the final one.
			r.req.Status = "F"
			w.noted("edge.result.corrected_first", "OBR-25", correctedFirst)
			_, err = w.service.plans.ReceiveResult(ctx, r.req)
		}
		if slices.Contains(again, i) && fault.CodeOf(err) == "plan.result.final" {
			w.noted("edge.result.known", "OBR-25", "the final result was recorded before: nothing changes")
			continue
		}
		if err != nil {
			return answered(err, "OBR-25")
		}
		w.done("plan.ReceiveResult", r.req.Command, r.req.PathwayId)
	}
	return nil
}

// read1 reads one report. An order without a result yet is pending.
func (w *work) read1(r *report) (pending bool, err error) {
	m := w.m
	at := func(field, component int) string { return m.at(r.obr, field, 1, component, 0) }
	filler := at(3, 1)
	if filler == "" {
		filler = at(2, 1)
	}
	code, test := "", ""
	for _, c := range []int{1, 4, 2} {
		value := at(4, c)
		if code == "" {
			code = value
		}
		if t := tests[strings.ToUpper(value)]; t != "" && test == "" {
			test = t
		}
	}
	switch {
	case code == "":
		return false, refuse("edge.field.required", "OBR-4", "the report does not say what was tested")
	case filler == "":
		return false, refuse("edge.field.required", "OBR-3", "the report has neither a filler nor a placer number: without one a correction cannot find it")
	}
	if test == "" {
		test = slug(code)
	}
	state, ok := resultStatus(m, r)
	if !ok {
		return false, refuse("edge.field.invalid", "OBR-25", "a result status is of HL7 table 0123: F, P, C, X and the like")
	}
	if state == "" {
		return true, nil
	}
	on := w.said.AsTime()
	for _, text := range []string{at(7, 1), at(14, 1), at(22, 1)} {
		if t, err := moment(text); err == nil {
			on = t
			break
		}
	}
	var values []string
	abnormal := false
	for _, x := range r.obx {
		if flag := m.at(x, 8, 1, 1, 0); flag != "" && flag != "N" {
			abnormal = true
		}
		value := m.at(x, 5, 1, 1, 0)
		if value == "" || slices.Contains([]string{"ED", "RP"}, m.at(x, 2, 1, 1, 0)) {
			continue
		}
		name := m.at(x, 3, 1, 2, 0)
		if name == "" {
			name = m.at(x, 3, 1, 1, 0)
		}
		values = append(values, strings.TrimSpace(name+": "+value+" "+m.at(x, 6, 1, 1, 0)))
	}
	r.req = &planv1.ReceiveResultRequest{Command: w.command("result/" + filler + "/" + code), ResultId: filler + "\x00" + code, Test: test, Status: state,
		OutOfRange: abnormal, Value: short(strings.Join(values, "; "), 500), On: nhs.DateOf(on).String()}
	return false, nil
}

// resultStatus is P, F, C or X by OBR-25 and OBX-11, "" while there is no result.
// A correction of one value corrects the report.
func resultStatus(m message, r *report) (string, bool) {
	var of []string
	for _, x := range r.obx {
		of = append(of, m.at(x, 11, 1, 1, 0))
	}
	has := func(codes ...string) bool {
		return slices.ContainsFunc(of, func(c string) bool { return slices.Contains(codes, c) })
	}
	said := m.at(r.obr, 25, 1, 1, 0)
	if said == "" {
		switch {
		case has("C", "W", "D"):
			said = "C"
		case has("P", "R", "S", "I", "O"):
			said = "P"
		case len(of) > 0 && !slices.ContainsFunc(of, func(c string) bool { return c != "X" }):
			said = "X"
		case len(of) > 0:
			said = "F"
		default:
			said = "O"
		}
	}
	switch said {
	case "F", "U":
		if has("C", "W", "D") {
			return "C", true
		}
		return "F", true
	case "C", "M", "N":
		return "C", true
	case "X":
		return "X", true
	case "P", "A", "R", "S":
		if len(of) == 0 {
			return "", true
		}
		return "P", true
	case "I", "O", "Y", "Z":
		return "", true
	}
	return "", false
}

// slug is a code as the plan names tests.
func slug(code string) string {
	return short(strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return c + 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_':
			return c
		}
		return '-'
	}, code), 64)
}

// dayOf is the first of some fields that is a day, or else when the message was sent.
func (w *work) dayOf(fields ...string) string {
	for _, f := range fields {
		if d, err := day(w.m.get(f)); err == nil {
			return d
		}
	}
	return nhs.DateOf(w.said.AsTime().In(time.UTC)).String()
}
