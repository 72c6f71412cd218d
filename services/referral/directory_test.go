package referral

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
	"waymark/services/kit/runtest"
)

func TestDirectoryDecisions(t *testing.T) {
	t.Parallel()
	details := &pb.ServiceDetails{Kind: pb.ServiceKind_SERVICE_KIND_CHARITY, Name: "Hope"}
	better := &pb.ServiceDetails{Kind: pb.ServiceKind_SERVICE_KIND_CHARITY, Name: "Hope and Help", CapacityNote: "three weeks' wait"}
	register := RegisterService{&pb.RegisterServiceRequest{Details: details}, cmd(1)}.Decide
	amend := func(version int64) func(Entry) ([]proto.Message, error) {
		return AmendService{&pb.AmendServiceRequest{ServiceId: svcID, Details: better, SeenVersion: version}}.Decide
	}
	retire := RetireService{&pb.RetireServiceRequest{ServiceId: svcID, Reason: "closed"}}.Decide
	registered := &pb.ServiceRegistered{ServiceId: svcID, Details: details}
	amended := &pb.ServiceAmended{ServiceId: svcID, Details: better}
	retired := &pb.ServiceRetired{ServiceId: svcID, Reason: "closed"}
	in := func(events ...proto.Message) estest.Scenario[Entry] {
		return estest.Given(directoryDecider(), events...)
	}

	in().When(register).Then(t, &pb.ServiceRegistered{ServiceId: serviceID(cmd(1)), Details: details})
	in(registered).When(register).ThenRefused(t, "service.exists")
	in(registered).When(amend(1)).Then(t, amended)
	in(registered, amended).When(amend(1)).ThenRefused(t, "service.stale")
	in(registered).When(retire).Then(t, retired)
	in(registered, retired).When(retire).ThenRefused(t, "service.retired")
	in(registered, retired).When(amend(2)).ThenRefused(t, "service.retired")
	in().When(amend(1)).ThenRefused(t, "service.not_found")
	in().When(retire).ThenRefused(t, "service.not_found")
	if got := in(registered, amended, retired).State(t).Service; got.Version != 3 || !got.Retired || got.Details.Name != better.Name {
		t.Errorf("service %v", got)
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	d := &pb.Service{Details: &pb.ServiceDetails{Kind: pb.ServiceKind_SERVICE_KIND_CHARITY, Name: "Manchester Lung Hope",
		TumourGroups: []string{"03"}, Areas: []string{"M14"}, Languages: []string{"en", "pl"}, Accepts: []pb.ReferralKind{pb.ReferralKind_REFERRAL_KIND_CHARITY}}}
	anywhere := &pb.Service{Details: &pb.ServiceDetails{Kind: pb.ServiceKind_SERVICE_KIND_NHS, Name: "National"}}
	for _, c := range []struct {
		query     *pb.SearchServicesRequest
		d, anywhr bool
	}{
		{&pb.SearchServicesRequest{}, true, true},
		{&pb.SearchServicesRequest{Kind: pb.ServiceKind_SERVICE_KIND_NHS}, false, true},
		{&pb.SearchServicesRequest{TumourGroup: "03"}, true, true},
		{&pb.SearchServicesRequest{TumourGroup: "01"}, false, true},
		{&pb.SearchServicesRequest{Area: "M14"}, true, true},
		{&pb.SearchServicesRequest{Area: "M15"}, false, true},
		{&pb.SearchServicesRequest{Language: "pl-PL"}, true, false},
		{&pb.SearchServicesRequest{Language: "en"}, true, true},
		{&pb.SearchServicesRequest{Language: "ur"}, false, false},
		{&pb.SearchServicesRequest{Accepts: pb.ReferralKind_REFERRAL_KIND_CHARITY}, true, true},
		{&pb.SearchServicesRequest{Accepts: pb.ReferralKind_REFERRAL_KIND_PSYCHOLOGY}, false, true},
		{&pb.SearchServicesRequest{NameContains: "lung"}, true, false},
	} {
		if got, too := matches(c.query)(d), matches(c.query)(anywhere); got != c.d || too != c.anywhr {
			t.Errorf("%v: %v, %v", c.query, got, too)
		}
	}
}

// TestSearch pages through the read model, sees retired services go, and reads
// its own writes.
func TestSearch(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), &people{})
	var last *pb.ServiceReply
	for i := range 7 {
		last = h.Must(charity(i, fmt.Sprintf("Hope %d", i), nil, nil, nil)).(*pb.ServiceReply)
	}
	var names []string
	query := &pb.SearchServicesRequest{NameContains: "hope", PageSize: 3, MinPosition: last.Receipt.Position}
	for pages := 1; ; pages++ {
		reply := h.Must(query).(*pb.SearchServicesResponse)
		for _, s := range reply.Services {
			names = append(names, s.Details.Name)
		}
		if query.PageToken = reply.NextPageToken; query.PageToken == "" {
			if pages != 3 || len(names) != 7 || names[0] != "Hope 0" || names[6] != "Hope 6" {
				t.Errorf("%d pages: %v", pages, names)
			}
			break
		}
	}
	first := h.Must(&pb.SearchServicesRequest{PageSize: 3}).(*pb.SearchServicesResponse)
	_, err := h.Call(&pb.SearchServicesRequest{PageSize: 3, PageToken: first.NextPageToken, NameContains: "6"})
	if fault.CodeOf(err) != "directory.page_token" {
		t.Errorf("a token for other conditions: %v", err)
	}
	gone := h.Must(&pb.RetireServiceRequest{Command: header(1), ServiceId: last.Service.ServiceId, Reason: "closed"}).(*pb.ServiceReply)
	after := h.Must(&pb.SearchServicesRequest{MinPosition: gone.Receipt.Position}).(*pb.SearchServicesResponse)
	if len(after.Services) != 6 || after.Position < gone.Receipt.Position {
		t.Errorf("%d services at position %d after one retired", len(after.Services), after.Position)
	}
}

// TestDirectoryRestarts: the read model goes on where it was, and says when it
// cannot reach a position in time.
func TestDirectoryRestarts(t *testing.T) {
	t.Parallel()
	log := estest.NewLog()
	entries := es.NewStreams(log, directoryDecider(), es.Options{Key: runtest.Key})
	add := func(n int) es.Position {
		req := charity(n, "Hope", nil, nil, nil)
		state, err := entries.Do(t.Context(), serviceID(commandID(req)), req, RegisterService{req, commandID(req)}.Decide)
		if err != nil {
			t.Fatal(err)
		}
		return state.Position
	}
	d := newDirectory(log)
	for n := range 3 {
		at := add(n)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.Run(ctx) }()
		if err := d.Wait(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if found, position := d.search(func(*pb.Service) bool { return true }); len(found) != n+1 || position != at {
			t.Errorf("%d services at %d, want %d at %d", len(found), position, n+1, at)
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	if err := d.Wait(ctx, add(9)); fault.CodeOf(err) != "directory.behind" {
		t.Errorf("waiting for what does not come: %v", err)
	}
}

// TestDirectoryKeeps: with its journal it goes on where it stood.
func TestDirectoryKeeps(t *testing.T) {
	t.Parallel()
	var stories [][]es.Recorded
	for story := range 2 {
		log := estest.NewLog()
		entries := es.NewStreams(log, directoryDecider(), es.Options{Key: runtest.Key})
		for n := range 5 {
			req := charity(story+2*n, fmt.Sprint("Hope ", story), nil, nil, nil)
			if _, err := entries.Do(t.Context(), serviceID(commandID(req)), req, RegisterService{req, commandID(req)}.Decide); err != nil {
				t.Fatal(err)
			}
		}
		stories = append(stories, log.Events())
	}
	estest.Restarts(t, func(log es.Log) (*es.Follower, func() string) {
		d := newDirectory(log)
		return d.Follower, func() string { return fmt.Sprint(d.search(func(*pb.Service) bool { return true })) }
	}, stories...)
}

func TestDirectoryEvents(t *testing.T) {
	estest.EvolvesAll(t, pb.File_waymark_referral_v1_events_proto, directoryDecider())
	estest.StoredExamples(t, "testdata/events", pb.File_waymark_referral_v1_events_proto, directoryDecider())
}
