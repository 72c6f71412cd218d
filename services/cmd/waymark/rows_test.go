package main

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pathwayv1 "waymark/proto/waymark/pathway/v1"
	"waymark/services/kit/fault"
)

// desk answers lists as it is told.
type desk struct {
	pathwayv1.UnimplementedPathwayQueryServiceServer
	pathwayv1.UnimplementedIndicatorServiceServer
	deadlines  *pathwayv1.ListDeadlinesResponse
	indicators *pathwayv1.GetIndicatorsResponse
	asked      *pathwayv1.GetIndicatorsRequest
	before     *timestamppb.Timestamp
}

func (d *desk) ListDeadlines(_ context.Context, r *pathwayv1.ListDeadlinesRequest) (*pathwayv1.ListDeadlinesResponse, error) {
	d.before = r.DueBefore
	return d.deadlines, nil
}

func (d *desk) GetIndicators(_ context.Context, r *pathwayv1.GetIndicatorsRequest) (*pathwayv1.GetIndicatorsResponse, error) {
	d.asked = r
	if d.indicators == nil {
		return nil, fault.NotFound("indicator.unknown", "there is no such indicator")
	}
	return d.indicators, nil
}

func (d *desk) serve(t *testing.T) string {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pathwayv1.RegisterPathwayQueryServiceServer(server, d)
	pathwayv1.RegisterIndicatorServiceServer(server, d)
	go server.Serve(lis)
	t.Cleanup(server.Stop)
	return lis.Addr().String()
}

// TestListsReadAsTheyStand compares every character that a user reads: the civil
// date before the instant, the id that can be pasted, what is not there.
func TestListsReadAsTheyStand(t *testing.T) {
	t.Parallel()
	holder := &careleadv1.Party{Name: "RJ1 Breast"}
	summer := time.Date(2026, 7, 1, 8, 30, 0, 0, time.UTC)
	d := &desk{deadlines: &pathwayv1.ListDeadlinesResponse{
		Rows: []*pathwayv1.DeadlineRow{
			{PathwayId: somebody, Holder: holder, Deadline: &pathwayv1.Deadline{Kind: "fds", On: "2026-06-30", Due: timestamppb.New(summer), About: "FDS28-2026"}},
			{PathwayId: somebody, Deadline: &pathwayv1.Deadline{Kind: "handover_seen", Due: timestamppb.New(summer)}},
		},
		Freshness: &pathwayv1.Freshness{Stale: true, BehindSeconds: 75}, NextPageToken: "more",
	}}
	at := d.serve(t)
	out, said, code := waymark(t, "", "pathway", "deadlines", "--before", "2026-07-02", "--grpc", at)
	want := `PATHWAY_ID                            WHAT           DUE                        HOLDER      ABOUT
5a3f6c1e-8f0a-4a51-9d5e-0c8f4b8d7a11  fds            2026-06-30                 RJ1 Breast  FDS28-2026
5a3f6c1e-8f0a-4a51-9d5e-0c8f4b8d7a11  handover_seen  2026-07-01T09:30:00+01:00              
`
	if code != exitOK || out != want {
		t.Errorf("exit %d\n%s\nwant\n%s", code, out, want)
	}
	for _, text := range []string{"page_token=more", "75 seconds behind"} {
		if !strings.Contains(said, text) {
			t.Errorf("stderr lacks %q: %s", text, said)
		}
	}
	if got := d.before.AsTime(); !got.Equal(time.Date(2026, 7, 1, 23, 0, 0, 0, time.UTC)) {
		t.Errorf("2026-07-02 begins at %s in England", got)
	}
	if out, said, code = waymark(t, "", "pathway", "deadlines", "--before", "soon", "--grpc", at); code != exitUsage || !strings.Contains(said, "--before") || out != "" {
		t.Errorf("exit %d, %s", code, said)
	}
	d.deadlines = &pathwayv1.ListDeadlinesResponse{}
	if out, said, code = waymark(t, "", "pathway", "deadlines", "--grpc", at); code != exitOK || said != "none\n" || strings.Count(out, "\n") != 1 {
		t.Errorf("an empty list: exit %d, stdout %q, stderr %q", code, out, said)
	}
}

func TestIndicatorsReadAsTheyStand(t *testing.T) {
	t.Parallel()
	figure := func(n float64) *pathwayv1.Figure { return &pathwayv1.Figure{Number: n} }
	hidden := &pathwayv1.Figure{Suppressed: true}
	d := &desk{indicators: &pathwayv1.GetIndicatorsResponse{Rows: []*pathwayv1.IndicatorRow{
		{Id: "M01", Month: "2026-03", Provider: "RJ1", Unit: pathwayv1.IndicatorUnit_INDICATOR_UNIT_PERCENT, Numerator: figure(10), Denominator: figure(15), Value: figure(66.66666), Excluded: figure(0)},
		{Id: "M01", Month: "2026-04", Provider: "RJZ", Unit: pathwayv1.IndicatorUnit_INDICATOR_UNIT_PERCENT, Numerator: hidden, Denominator: figure(15), Value: hidden, Excluded: figure(0)},
	}}}
	at := d.serve(t)
	out, _, code := waymark(t, "", "indicator", "show", "M01,M08", "--from", "2026-03", "--to", "2026-04", "--by", "PROVIDER,ROUTE", "--export=true", "--grpc", at)
	want := `ID   MONTH    PROVIDER  NUMERATOR  DENOMINATOR  EXCLUDED  VALUE  UNIT
M01  2026-03  RJ1       10         15           0         66.7   percent
M01  2026-04  RJZ       *          15           0         *      percent
`
	if code != exitOK || out != want {
		t.Errorf("exit %d\n%s\nwant\n%s", code, out, want)
	}
	if r := d.asked; len(r.Ids) != 2 || r.FromMonth != "2026-03" || r.ToMonth != "2026-04" || len(r.By) != 2 || !r.Export {
		t.Errorf("asked %v", d.asked)
	}
	if out, _, _ = waymark(t, "", "indicator", "show", "-o", "ndjson", "--grpc", at); strings.Count(out, "\n") != 2 || len(d.asked.Ids) != 0 {
		t.Errorf("ndjson: %s", out)
	}
	if _, said, code := waymark(t, "", "indicator", "show", "--from", "2026", "--grpc", at); code != exitUsage || !strings.Contains(said, "2026-03") {
		t.Errorf("exit %d: %s", code, said)
	}
	d.indicators = nil
	if _, said, code := waymark(t, "", "indicator", "show", "M99", "--grpc", at); code != exitNotFound || !strings.Contains(said, "next: waymark indicator list") {
		t.Errorf("exit %d: %s", code, said)
	}
}

func TestParseSlots(t *testing.T) {
	t.Parallel()
	got, err := parseSlots("2026-12-01 09:00-09:50 every 20m")
	if want := `[{"end":"2026-12-01T09:20","start":"2026-12-01T09:00"},{"end":"2026-12-01T09:40","start":"2026-12-01T09:20"}]`; err != nil || got != want {
		t.Errorf("%s, %v", got, err)
	}
	for _, text := range []string{"", "2026-12-01", "2026-13-01 09:00-10:00 every 20m", "2026-12-01 09:00-25:00 every 20m", "2026-12-01 09:00-10:00 every 20",
		"2026-12-01 09:00-10:00 every 0m", "2026-12-01 09:00-10:00 every 90s", "2026-12-01 10:00-09:00 every 20m", "2026-12-01 09:00-09:10 every 20m"} {
		if got, err := parseSlots(text); err == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}
