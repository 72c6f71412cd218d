package plan

import (
	"slices"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
)

// SubmitResponse takes the answers to a questionnaire.
type SubmitResponse struct {
	Env
	*pb.SubmitResponseRequest
}

// Decide scores only what is complete and within range; what is not is kept and
// rejected with the reason. What the alert rules said is stored with the scores.
func (c SubmitResponse) Decide(s State) ([]proto.Message, error) {
	if err := c.happened("on", c.On); err != nil {
		return nil, err
	}
	id := c.ID("response")
	got := &pb.ResponseReceived{ResponseId: id, Instrument: c.Instrument, InstrumentVersion: c.InstrumentVersion, Author: c.Author, On: c.On}
	values := make(map[string]int32)
	reject := func(code string) ([]proto.Message, error) {
		return events(got, &pb.ResponseRejected{ResponseId: id, Instrument: c.Instrument, ReasonCode: code})
	}
	twice := false
	for _, a := range c.Answers {
		got.Answers = append(got.Answers, &pb.Answer{Item: a.Item, Value: a.Value})
		_, again := values[a.Item]
		twice = twice || again
		values[a.Item] = a.Value
	}
	ins, ok := find(Instruments(), func(i Instrument) bool {
		return i.Instrument == c.Instrument && slices.Contains(i.Versions, c.InstrumentVersion)
	})
	if !ok {
		return reject("instrument_unknown")
	}
	if twice {
		return reject("answered_twice")
	}
	answered := 0
	for _, it := range ins.Items {
		v, ok := values[it.Item]
		if !ok {
			return reject("incomplete")
		}
		if v < it.Min || v > it.Max {
			return reject("out_of_range")
		}
		answered++
	}
	if answered != len(values) {
		return reject("item_unknown")
	}
	scored := &pb.ResponseScored{ResponseId: id, Algorithm: ins.Algorithm, AlgorithmVersion: ins.AlgorithmVersion}
	for _, scale := range ins.Scales {
		scored.Scores = append(scored.Scores, &pb.Score{Scale: scale.Scale, Value: score(scale.Function, scale.Items, values)})
	}
	for _, rule := range ins.Alerts {
		if slices.ContainsFunc(scored.Scores, func(x *pb.Score) bool { return x.Scale == rule.Scale && x.Value >= rule.AtLeast }) {
			scored.AlertRule, scored.Alert = rule.Rule, true
			return events(got, scored, &pb.AlertRaised{ResponseId: id, AlertRule: rule.Rule, Due: endOf(c.Now, 1)})
		}
	}
	return events(got, scored)
}

// score computes one scale from complete answers.
func score(function string, items []string, values map[string]int32) float64 {
	sum, most := 0.0, 0.0
	for _, item := range items {
		v := float64(values[item])
		sum, most = sum+v, max(most, v)
	}
	switch function {
	case "max":
		return most
	case "mean":
		return sum / float64(len(items))
	}
	return sum // a value is the sum of one item
}

func evolveResponse(s State, e proto.Message) (State, bool) {
	edit := func(id string, change func(r *pb.Response)) (State, bool) {
		s.responses = with(s.responses, func(r *pb.Response) bool { return r.ResponseId == id }, change)
		return s, true
	}
	switch e := e.(type) {
	case *pb.ResponseReceived:
		s.responses = add(s.responses, &pb.Response{ResponseId: e.ResponseId, Instrument: e.Instrument, InstrumentVersion: e.InstrumentVersion,
			Answers: e.Answers, Author: e.Author, On: e.On})
		return s, true
	case *pb.ResponseScored:
		return edit(e.ResponseId, func(r *pb.Response) {
			r.State, r.Algorithm, r.AlgorithmVersion = pb.ResponseState_RESPONSE_STATE_SCORED, e.Algorithm, e.AlgorithmVersion
			r.Scores, r.AlertRule, r.Alert = e.Scores, e.AlertRule, e.Alert
		})
	case *pb.AlertRaised:
		return edit(e.ResponseId, func(r *pb.Response) { r.AlertDue = e.Due })
	case *pb.AlertClosed:
		return edit(e.ResponseId, func(r *pb.Response) { r.AlertDue, r.AlertClosedOn, r.AlertOutcome = nil, e.On, e.Outcome })
	case *pb.ResponseRejected:
		return edit(e.ResponseId, func(r *pb.Response) { r.State, r.ReasonCode = pb.ResponseState_RESPONSE_STATE_REJECTED, e.ReasonCode })
	}
	return s, false
}
