package plan

import (
	"slices"
	"strings"

	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
)

// kin is which pathways are of which person, who was merged into whom and who
// died. It lives in memory, is built anew at each start and decides
// nothing.
type kin struct {
	*es.Follower // its lock guards all below

	pathways map[string][]string // person id -> pathway ids
	merged   map[string][]string // surviving person id -> persons merged into it
	into     map[string]string   // merged person id -> survivor
	parted   map[string][]string // person id -> persons whose merge with it was reversed
	dead     map[string]bool     // person id -> a formal notice of death stands
}

func newKin(log es.Log) *kin {
	k := &kin{pathways: map[string][]string{}, merged: map[string][]string{}, into: map[string]string{}, parted: map[string][]string{}, dead: map[string]bool{}}
	k.Follower = es.Follow(log, "plan.behind", k.apply, "pathway", "person")
	k.Only(es.TypeOf(&referralv1.PathwayStarted{}), es.TypeOf(&personv1.PersonsMerged{}), es.TypeOf(&personv1.MergeReversed{}), es.TypeOf(&personv1.DeathConfirmed{}), es.TypeOf(&personv1.DeathNotificationRetracted{}))
	return k
}

func (k *kin) apply(e es.Recorded) error {
	event, err := es.Decode(e)
	if err != nil {
		return err
	}
	_, id, _ := strings.Cut(e.Stream, "-")
	switch m := event.(type) {
	case *referralv1.PathwayStarted:
		k.pathways[m.PersonId] = append(k.pathways[m.PersonId], id)
	case *personv1.PersonsMerged:
		k.merged[id] = append(k.merged[id], m.MergedPersonId)
		k.into[m.MergedPersonId] = id
	case *personv1.MergeReversed:
		k.merged[m.SurvivingPersonId] = slices.DeleteFunc(k.merged[m.SurvivingPersonId], func(p string) bool { return p == m.MergedPersonId })
		delete(k.into, m.MergedPersonId)
		k.parted[m.SurvivingPersonId] = append(k.parted[m.SurvivingPersonId], m.MergedPersonId)
		k.parted[m.MergedPersonId] = append(k.parted[m.MergedPersonId], m.SurvivingPersonId)
	case *personv1.DeathConfirmed:
		k.dead[id] = true
	case *personv1.DeathNotificationRetracted:
		delete(k.dead, id)
	}
	return nil
}

// one lists who a person is, the survivor first. The caller holds the lock.
func (k *kin) one(person string) []string {
	for range len(k.into) { // up to the survivor of all; a circle ends with the range
		up := k.into[person]
		if up == "" {
			break
		}
		person = up
	}
	all := []string{person}
	for i := 0; i < len(all); i++ {
		for _, p := range k.merged[all[i]] {
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}

// concern is how a pathway stands after its person changed.
type concerned struct {
	pathway, person string // the person who is left
	dead            bool
}

// concerned lists the pathways that a change of a person is about.
func (k *kin) concerned(person string) (all []concerned) {
	k.Lock()
	defer k.Unlock()
	seen := map[string]bool{}
	for _, start := range append([]string{person}, k.parted[person]...) {
		one := k.one(start)
		dead := slices.ContainsFunc(one, func(p string) bool { return k.dead[p] })
		for _, p := range one {
			for _, pathway := range k.pathways[p] {
				if !seen[pathway] {
					seen[pathway] = true
					all = append(all, concerned{pathway, one[0], dead})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b concerned) int { return strings.Compare(a.pathway, b.pathway) })
	return all
}
