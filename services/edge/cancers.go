package edge

import (
	_ "embed"
	"encoding/csv"
	"strings"
)

// cancersCSV says which codes mean cancer.
//
//go:embed cancers.csv
var cancersCSV string

// cancer is what a code says.
type cancer struct{ kind, group, icd10 string }

// cancers by system and code; of ICD-10 by the beginning of one, without its dot.
var cancers = func() map[string]map[string]cancer {
	r := csv.NewReader(strings.NewReader(cancersCSV))
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil {
		panic(err) // cannot be: the file is embedded, and a test reads it
	}
	out := map[string]map[string]cancer{"icd10": {}, "snomed": {}}
	for _, row := range rows[1:] {
		out[row[0]][row[1]] = cancer{row[2], row[3], row[4]}
	}
	return out
}()

// means returns what a code says of cancer, false when nothing.
func (c coding) means() (cancer, bool) {
	switch system := strings.ToLower(c.system); {
	case strings.Contains(system, "snomed.info/sct"):
		found, ok := cancers["snomed"][c.code]
		return found, ok
	case strings.Contains(system, "/icd-10") || strings.HasSuffix(system, "icd10") || strings.Contains(system, "2.16.840.1.113883.6.3"):
		code := strings.ToUpper(strings.ReplaceAll(c.code, ".", ""))
		for n := len(code); n > 0; n-- {
			if found, ok := cancers["icd10"][code[:n]]; ok {
				if found.icd10 = c.code; len(code) > 4 { // other countries go deeper
					found.icd10 = code[:3] + "." + code[3:4]
				}
				return found, true
			}
		}
	}
	return cancer{}, false
}

// meaning is the first of the codes that says something of cancer.
func meaning(codes []coding) (cancer, bool) {
	for _, c := range codes {
		if found, ok := c.means(); ok {
			return found, true
		}
	}
	return cancer{}, false
}
