package pathway

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

func indicatorClient(t *testing.T, register func(grpc.ServiceRegistrar)) pb.IndicatorServiceClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	register(srv)
	go srv.Serve(l)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); srv.Stop() })
	return pb.NewIndicatorServiceClient(conn)
}

// TestIndicatorService asks over a real connection.
func TestIndicatorService(t *testing.T) {
	t.Parallel()
	all := views(t)
	x, err := openExports("", nil, discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.close() })
	s := &indicatorServer{exports: x, clock: func() time.Time { return counting }, each: func(_ context.Context, atLeast es.Position, yield func(counts) error) (es.Position, error) {
		if atLeast > 77 {
			return 0, fault.Unavailable("pathway.model.behind", "not yet", time.Second)
		}
		for _, v := range all {
			if err := yield(counts{pathway: v}); err != nil {
				return 0, err
			}
		}
		return 77, nil
	}}
	client := indicatorClient(t, func(r grpc.ServiceRegistrar) { pb.RegisterIndicatorServiceServer(r, s) })
	ctx := t.Context()

	defs, err := client.ListIndicators(ctx, &pb.ListIndicatorsRequest{})
	if err != nil || len(defs.Indicators) != len(catalogue) {
		t.Fatalf("%d definitions, %v", len(defs.GetIndicators()), err)
	}
	out, err := client.GetIndicators(ctx, &pb.GetIndicatorsRequest{Ids: []string{"M01"}, AtLeastPosition: 77})
	if err != nil {
		t.Fatal(err)
	}
	if out.Position != 77 || out.Pathways != 3 || len(out.Rows) != 3 || !out.DataAsOf.AsTime().Equal(counting) {
		t.Errorf("answer %v", out)
	}
	for _, r := range out.Rows {
		if r.Id != "M01" || r.Position != 77 || r.DataAsOf == nil || r.Ruleset == "" || r.Suppressed || r.Value == nil {
			t.Errorf("row %v", r)
		}
	}
	if out, err = client.GetIndicators(ctx, &pb.GetIndicatorsRequest{Ids: []string{"M01"}, Export: true}); err != nil || !out.Exported || out.Pathways != 0 || len(out.Rows) != 3 || !out.Rows[0].Suppressed {
		t.Errorf("export %v, %v", out, err)
	}
	for name, ask := range map[string]struct {
		req  *pb.GetIndicatorsRequest
		code codes.Code
		text string
	}{
		"unknown": {&pb.GetIndicatorsRequest{Ids: []string{"M99"}}, codes.NotFound, "indicator.unknown"},
		"months":  {&pb.GetIndicatorsRequest{FromMonth: "2026-03", ToMonth: "2026-02"}, codes.InvalidArgument, "indicator.months"},
		"behind":  {&pb.GetIndicatorsRequest{AtLeastPosition: 78}, codes.Unavailable, "pathway.model.behind"},
	} {
		_, err := client.GetIndicators(ctx, ask.req)
		wantCode(t, err, ask.code)
		if got := fault.CodeOf(err); got != ask.text {
			t.Errorf("%s: %q, want %q", name, got, ask.text)
		}
	}
}

// TestIndicatorsOfTheModel counts what services recorded, through the log and the
// read model, at a position that the caller has just written.
func TestIndicatorsOfTheModel(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.handOver(t, pathwayID)
	w.record(t, "plan-"+pathwayID, time.Time{}, &planv1.ConcernRaised{ConcernId: "1", Code: "emotional.worry"}, &planv1.ConcernRaised{ConcernId: "2", Code: "emotional.worry"})
	w.record(t, "lead-l1", time.Time{}, &careleadv1.LeadRegistered{Party: lead, Capacity: 9}, &careleadv1.LeadActivated{On: "2026-07-01"}, &careleadv1.CapacityChanged{Capacity: 2},
		&careleadv1.CaseloadPlaceTaken{PathwayId: "a"}, &careleadv1.CaseloadPlaceTaken{PathwayId: "b"}, &careleadv1.CaseloadPlaceTaken{PathwayId: "a"}, &careleadv1.CaseloadPlaceTaken{PathwayId: "c"},
		&careleadv1.CaseloadPlaceFreed{PathwayId: "b"}, &careleadv1.CaseloadPlaceTaken{PathwayId: "d"}, &careleadv1.LeaveStarted{LeaveId: "x"}, &careleadv1.LeaveStarted{LeaveId: "y"}, &careleadv1.LeaveEnded{LeaveId: "x"})
	at := w.record(t, "lead-l2", time.Time{}, &careleadv1.LeadRegistered{Party: lead, Capacity: 5}, &careleadv1.LeadActivated{}, &careleadv1.CaseloadPlaceTaken{PathwayId: "a"}, &careleadv1.LeadDeactivated{})
	part, err := New(w.deps())
	if err != nil {
		t.Fatal(err)
	}
	connect(t, part) // and follow the log
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client := indicatorClient(t, part.Register)
	out, err := client.GetIndicators(ctx, &pb.GetIndicatorsRequest{Ids: []string{"M16", "M20", "M24", "M25", "M26"}, AtLeastPosition: uint64(at)})
	if err != nil {
		t.Fatal(err)
	}
	if out.Pathways != 1 || out.Position < uint64(at) {
		t.Errorf("%d pathways at position %d", out.Pathways, out.Position)
	}
	want := map[string]string{"M20": "1/1-0", "M24": "0/1-0", "M25": "0/1-0", "M16": "emotional.worry 2/2-0", "M26": "caseload 3/2-0; leave without cover 0/1-0; on leave 1/1-0; over capacity 1/1-0"}
	got := perIndicator(out.Rows)
	for id, w := range want {
		if got[id] != w {
			t.Errorf("%s: %q, want %q", id, got[id], w)
		}
	}
}
