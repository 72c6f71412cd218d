package carelead

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"strings"
	"sync"

	"waymark/services/kit/nhs"
)

// rolesCSV lists the SDS job roles in which a person may be a care lead, with
// the days from and to which that holds, where it comes from and how sure that is.
//
//go:embed roles.csv
var rolesCSV string

// role is a line of roles.csv.
type role struct {
	code, title string
	from, to    nhs.Date // to is zero for no end
}

var roles = sync.OnceValue(func() (all []role) {
	rows, err := csv.NewReader(strings.NewReader(rolesCSV)).ReadAll()
	if err != nil {
		panic(err)
	}
	for _, r := range rows[1:] {
		one := role{code: r[0], title: r[1]}
		if one.from, err = nhs.ParseDate(r[2]); err != nil {
			panic(fmt.Errorf("roles.csv, %s: %w", r[0], err))
		}
		if r[3] != "" {
			if one.to, err = nhs.ParseDate(r[3]); err != nil {
				panic(fmt.Errorf("roles.csv, %s: %w", r[0], err))
			}
		}
		all = append(all, one)
	}
	return all
})

// mayLead reports whether somebody in a role may be a care lead on a day.
func mayLead(code string, on nhs.Date) bool {
	for _, r := range roles() {
		if r.code == code && !on.Before(r.from) && (r.to.IsZero() || !on.After(r.to)) {
			return true
		}
	}
	return false
}
