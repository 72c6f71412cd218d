package plan

import (
	"embed"
	"encoding/csv"
	"encoding/json"
	"slices"
	"sync"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

//go:embed concerns.csv protocols.json instruments.json
var files embed.FS

// Entry is a concern of the catalogue: our own code, with a neutral label. A
// trust that has licensed another wording maps it onto the codes.
type Entry struct{ Code, Domain, Label string }

// Catalogue returns the concerns by code.
var Catalogue = sync.OnceValue(func() map[string]Entry {
	all := make(map[string]Entry)
	for _, e := range entries() {
		all[e.Code] = e
	}
	return all
})

// entries are the concerns in the order of the file.
var entries = sync.OnceValue(func() (all []Entry) {
	f, err := files.Open("concerns.csv")
	if err != nil {
		panic(err) // embedded
	}
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		panic(err)
	}
	for _, r := range rows[1:] {
		all = append(all, Entry{r[0], r[1], r[2]})
	}
	return all
})

// Protocol is a version of a surveillance protocol. Practice varies: the rows
// are local data, and only organisations that approved a version enrol by it.
type Protocol struct {
	Protocol      string   `json:"protocol"`
	Version       int64    `json:"version"`
	TumourGroups  []string `json:"tumour_groups"`
	EffectiveFrom string   `json:"effective_from"`
	Source        string   `json:"source"`
	Rows          []struct {
		Test        string  `json:"test"`
		Kind        string  `json:"kind"` // blood, imaging, procedure
		GraceDays   int32   `json:"grace_days"`
		AfterDays   []int32 `json:"after_days"`
		AfterMonths []int32 `json:"after_months"`
	} `json:"rows"`
	ApprovedBy []struct {
		Organisation string `json:"organisation"`
		On           string `json:"on"`
	} `json:"approved_by"`
}

// Protocols returns every version of every protocol.
var Protocols = sync.OnceValue(func() []Protocol { return load[[]Protocol]("protocols.json") })

// approvedProtocol returns the newest version that is in force and approved by
// the organisation on a day; any tumour group where none is given.
func approvedProtocol(name, organisation, tumourGroup string, on nhs.Date) (best Protocol, ok bool) {
	for _, p := range Protocols() {
		if p.Protocol != name || p.EffectiveFrom > on.String() || p.Version <= best.Version || tumourGroup != "" && !slices.Contains(p.TumourGroups, tumourGroup) {
			continue
		}
		for _, a := range p.ApprovedBy {
			if a.Organisation == organisation && a.On <= on.String() {
				best, ok = p, true
			}
		}
	}
	return best, ok
}

// items computes what falls due, by day and test. Months count from the anchor
// and never from an earlier item: 31 August would drift to the 28th for ever.
func (p Protocol) items(anchor nhs.Date, id func(test, due string) string) (all []*pb.Item) {
	for _, r := range p.Rows {
		var due []nhs.Date
		for _, n := range r.AfterDays {
			due = append(due, anchor.AddDays(int(n)))
		}
		for _, n := range r.AfterMonths {
			due = append(due, waitingtimes.AddMonths(anchor, int(n)))
		}
		for _, d := range due {
			all = append(all, &pb.Item{ItemId: id(r.Test, d.String()), Test: r.Test, Due: d.String(), GraceDays: r.GraceDays})
		}
	}
	slices.SortStableFunc(all, func(a, b *pb.Item) int {
		if a.Due != b.Due {
			return date(a.Due).Compare(date(b.Due))
		}
		return 0
	})
	return all
}

// imaging reports whether a test is an image, whose result takes longer.
func imaging(test string) bool {
	for _, p := range Protocols() {
		for _, r := range p.Rows {
			if r.Test == test {
				return r.Kind == "imaging"
			}
		}
	}
	return false
}

// Instrument is the structure of a questionnaire, without its licensed wording.
type Instrument struct {
	Instrument string   `json:"instrument"`
	Versions   []string `json:"versions"`
	Items      []struct {
		Item string `json:"item"`
		Min  int32  `json:"min"`
		Max  int32  `json:"max"`
	} `json:"items"`
	Algorithm        string `json:"algorithm"`
	AlgorithmVersion string `json:"algorithm_version"`
	Scales           []struct {
		Scale    string   `json:"scale"`
		Function string   `json:"function"` // value, sum, mean, max
		Items    []string `json:"items"`
	} `json:"scales"`
	Alerts []struct {
		Rule    string  `json:"rule"`
		Scale   string  `json:"scale"`
		AtLeast float64 `json:"at_least"`
	} `json:"alerts"` // the first that is met counts
}

// Instruments returns the questionnaires that can be scored.
var Instruments = sync.OnceValue(func() []Instrument { return load[[]Instrument]("instruments.json") })

func load[T any](name string) (v T) {
	data, err := files.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		panic(err) // embedded
	}
	return v
}
