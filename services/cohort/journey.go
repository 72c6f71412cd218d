package cohort

import (
	"fmt"
	"time"

	referralv1 "waymark/proto/waymark/referral/v1"
)

// Journey is what a source says of one patient. Dates are civil dates of England
// as YYYY-MM-DD, "" where there is none.
type Journey struct {
	Source string // kind of source: "synthea", "demo"
	ID     string // in the source
	At     Place  // of the patient in the source
	AsOf   string // last day that the source speaks of
	Sent   time.Time

	// Attempt is the first at an NHS number for this patient; see Number.
	Attempt int

	Family, Prefix string
	Given          []string
	Born, Died     string
	Address        []string
	Practice       Organisation
	Home           *Neighbourhood
	Lead           *Lead // who would take over near home

	Courses []*Course
}

// Place is where something stands in a source.
type Place struct {
	File string
	Line int
}

func (p Place) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// Organisation with its ODS code.
type Organisation struct{ Code, Name string }

// Neighbourhood that a journey leads home to.
type Neighbourhood struct {
	ID, Name  string
	Host      Organisation
	Practices []string // ODS codes
}

// Lead is a named lead.
type Lead struct {
	ID, Name, User string
	Organisation   string
	Capacity       int32
}

// Course is one cancer, or the suspicion of one, from its referral on.
type Course struct {
	Site      Site
	ID        string // within the journey
	Team      Organisation
	Received  string
	Source    string // SOURCE OF REFERRAL FOR OUT-PATIENTS
	Seen      string
	Told      string // of the cancer
	RuledOut  string
	Stage     string // as text; "" where the source has none
	Finding   string // histology and receptors
	Contacts  []Contact
	Needs     *Assessment
	Plan      bool // a plan is agreed and published once the patient was told
	Treatment []Treatment
	// Arrangement of the follow-up after the last treatment.
	Arrangement referralv1.FollowUpArrangement
	Handover    Handover
	Contacted   string // by the new lead
	Closed      string
	Reason      referralv1.CloseReason
}

// Handover says how far the handover to a lead near home has come.
type Handover int

// The steps of a handover, each with those before it.
const (
	NoHandover Handover = iota
	Prepared
	Offered
	Accepted
)

// Contact is an appointment, or a stay.
type Contact struct {
	ID         string
	Start, End time.Time
	Stay       bool
	Emergency  bool
	Remote     bool
	At         Organisation
	Purpose    string
	Next       bool // another one was planned then
}

// Assessment is a holistic needs assessment.
type Assessment struct {
	On       string
	Concerns []Concern
}

// Concern of the catalogue, scored 0 to 10.
type Concern struct {
	Code  string
	Score int32
}

// Treatment by one modality. Ended is set where it ends a period of treatment.
type Treatment struct {
	Decided, Started, Ended string
	Last                    bool // no other period is planned
	Modality                string
	Setting                 referralv1.TreatmentSetting
}

// Site is where a cancer is, as the national codes have it.
type Site struct {
	Name     string
	Group    string // tumour group and urgent referral type
	ICD10    string
	Protocol string // of surveillance after a curative treatment
}

// Sites by their short names.
var Sites = map[string]Site{
	"breast":     {"Breast", "01", "C50.9", "breast-curative"},
	"lung":       {"Lung", "03", "C34.9", ""},
	"blood":      {"Haematology", "04", "C92.0", ""},
	"lymphoma":   {"Haematology", "04", "C85.9", ""},
	"upper-gi":   {"Upper GI", "05", "C16.9", ""},
	"colorectal": {"Colorectal", "06", "C18.9", "colorectal-curative"},
	"skin":       {"Skin", "07", "C43.9", ""},
	"gynae":      {"Gynaecology", "08", "C54.1", ""},
	"urology":    {"Urology", "10", "C61", "prostate-radical"},
	"head-neck":  {"Head and neck", "12", "C10.9", ""},
}
