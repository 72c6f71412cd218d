package referral

import (
	"cmp"
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// Entry is the fold of a service stream; the zero value is a service that was
// never registered. The message is shared and never changed.
type Entry struct{ Service *pb.Service }

// directoryDecider folds streams "service-<service id>".
func directoryDecider() es.Decider[Entry] {
	return es.Decider[Entry]{Category: "service", Evolve: EvolveEntry}
}

// EvolveEntry applies one event.
func EvolveEntry(s Entry, event proto.Message) Entry {
	next := &pb.Service{ServiceId: s.Service.GetServiceId(), Details: s.Service.GetDetails(), Retired: s.Service.GetRetired(), Version: s.Service.GetVersion() + 1}
	switch e := event.(type) {
	case *pb.ServiceRegistered:
		next.ServiceId, next.Details = e.ServiceId, e.Details
	case *pb.ServiceAmended:
		next.Details = e.Details
	case *pb.ServiceRetired:
		next.Retired = true
	default:
		panic(es.Unhandled(event))
	}
	return Entry{next}
}

// RegisterService adds a service to the directory.
type RegisterService struct {
	*pb.RegisterServiceRequest
	CommandID uuid.UUID
}

// Decide refuses a service that is there.
func (c RegisterService) Decide(s Entry) ([]proto.Message, error) {
	if s.Service != nil {
		return nil, fault.Exists("service.exists", "a service with this id is registered already")
	}
	return events(&pb.ServiceRegistered{ServiceId: or(c.ServiceId, serviceID(c.CommandID)), Details: c.Details})
}

// serviceID is the id of the service that a command registers.
func serviceID(command uuid.UUID) string { return uuid.NewSHA1(command, []byte("service")).String() }

// AmendService replaces what is said of a service.
type AmendService struct{ *pb.AmendServiceRequest }

// Decide refuses service.retired and service.stale.
func (c AmendService) Decide(s Entry) ([]proto.Message, error) {
	switch {
	case s.Service == nil:
		return nil, errNoService
	case s.Service.Retired:
		return nil, fault.Refused("service.retired", "the service was retired: register it anew")
	case s.Service.Version != c.SeenVersion:
		return nil, fault.Refused("service.stale", "the service has changed since it was read: read it again")
	}
	return events(&pb.ServiceAmended{ServiceId: s.Service.ServiceId, Details: c.Details})
}

// RetireService takes a service out of the directory.
type RetireService struct{ *pb.RetireServiceRequest }

// Decide refuses service.retired.
func (c RetireService) Decide(s Entry) ([]proto.Message, error) {
	switch {
	case s.Service == nil:
		return nil, errNoService
	case s.Service.Retired:
		return nil, fault.Refused("service.retired", "the service was retired already")
	}
	return events(&pb.ServiceRetired{ServiceId: s.Service.ServiceId, Reason: c.Reason})
}

var errNoService = &fault.Error{GRPC: codes.NotFound, Code: "service.not_found", Text: "there is no such service in the directory"}

// directory is the read model of all services, for searching. It is small (some
// thousand entries in a country) and lives in memory, built from the log at each
// start.
type directory struct {
	*es.Follower // its lock guards services

	services map[string]Entry
}

func newDirectory(log es.Log) *directory {
	d := &directory{services: make(map[string]Entry)}
	d.Follower = es.Follow(log, "directory.behind", d.apply, "service")
	return d
}

func (d *directory) apply(e es.Recorded) error {
	event, err := es.Decode(e)
	if err != nil {
		return err
	}
	next, err := es.TryEvolve(EvolveEntry, d.services[e.Stream], event)
	if err != nil {
		return err
	}
	d.services[e.Stream] = next
	return nil
}

// search returns the services in use that match, by name, and the position that
// the answer holds everything up to.
func (d *directory) search(match func(*pb.Service) bool) ([]*pb.Service, es.Position) {
	d.Lock()
	defer d.Unlock()
	var found []*pb.Service
	for _, s := range d.services {
		if s.Service != nil && !s.Service.Retired && match(s.Service) {
			found = append(found, s.Service)
		}
	}
	slices.SortFunc(found, func(a, b *pb.Service) int { return cmp.Compare(sortKey(a), sortKey(b)) })
	return found, d.At()
}

// sortKey orders services by name, and those of one name by id.
func sortKey(s *pb.Service) string {
	return strings.ToLower(s.Details.GetName()) + "\x00" + s.ServiceId
}

// matches reports whether a service meets every condition of a search.
func matches(q *pb.SearchServicesRequest) func(*pb.Service) bool {
	return func(s *pb.Service) bool {
		d := s.Details
		return (q.Kind == 0 || d.GetKind() == q.Kind) &&
			serves(d.GetTumourGroups(), q.TumourGroup) &&
			serves(d.GetAreas(), q.Area) &&
			speaks(d, q.Language) &&
			(q.Accepts == 0 || len(d.GetAccepts()) == 0 || slices.Contains(d.GetAccepts(), q.Accepts)) &&
			strings.Contains(strings.ToLower(d.GetName()), strings.ToLower(q.NameContains))
	}
}

// serves reports whether what a service names covers want; it covers all when it
// names nothing, and no want is always covered.
func serves(named []string, want string) bool {
	return want == "" || len(named) == 0 || slices.Contains(named, want)
}

// speaks reports whether a service speaks the language; one that names none
// speaks English. Regions do not count: "pl" serves "pl-PL".
func speaks(d *pb.ServiceDetails, want string) bool {
	base, _, _ := strings.Cut(want, "-")
	if want == "" || len(d.GetLanguages()) == 0 {
		return want == "" || base == "en"
	}
	return slices.ContainsFunc(d.GetLanguages(), func(l string) bool {
		l, _, _ = strings.Cut(l, "-")
		return l == base
	})
}

// toOffer returns the services, other than those of the NHS, that suit a patient,
// and by what they were chosen. Where none speaks the patient's language, those
// that do not are better than nothing, and the basis says so.
func (d *directory) toOffer(tumourGroup, language, area string) ([]*pb.Service, *pb.OfferBasis) {
	choose := func(language string) []*pb.Service {
		match := matches(&pb.SearchServicesRequest{TumourGroup: tumourGroup, Language: language, Area: area})
		found, _ := d.search(func(s *pb.Service) bool {
			return s.Details.GetKind() != pb.ServiceKind_SERVICE_KIND_NHS && match(s)
		})
		return found[:min(len(found), maxOffered)]
	}
	basis := &pb.OfferBasis{TumourGroup: tumourGroup, ByLanguage: language != "", ByArea: area != ""}
	found := choose(language)
	if len(found) == 0 && language != "" {
		found, basis.ByLanguage = choose(""), false
	}
	return found, basis
}

// maxOffered is how many services one offer holds: more is no help to choose.
const maxOffered = 10
