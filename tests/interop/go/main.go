// What producers and consumers of the Go client see: NAME_SERVER, with the variable ADMIN naming admin.py.
//
// Prints a line for each check: `ok go/NAME`, or `FAIL go/NAME: why`. Only names that match the variable ONLY are run.
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

const (
	atOnce = 4
	limit  = 150 * time.Second
)

type check struct {
	name string
	run  func() error
}

// The slow ones first, so that none of them is waited for alone.
var checks = []check{
	{"transactions_end_as_their_producer_says_also_when_it_is_asked", transactions},
	{"message_that_always_fails_ends_in_the_dead_letter_queue", deadLetters},
	{"refused_message_comes_again_through_the_retry_topic", retries},
	{"delayed_messages_come_after_their_level_and_never_before", delayLevels},
	{"timer_messages_come_at_their_time_and_never_before", timers},
	{"orderly_consumer_sees_send_order_in_every_queue_and_repeats_what_it_suspends", orderly},
	{"members_of_a_group_share_its_messages", sharing},
	{"sync_sends_arrive_once_with_all_they_carry", syncSends},
	{"async_sends_arrive_once_with_all_they_carry", asyncSends},
	{"one_way_sends_arrive_once_with_all_they_carry", oneWaySends},
	{"batches_arrive_once_with_all_they_carry", batches},
	{"tag_filter_lets_only_its_tags_pass", tags},
	{"sql_condition_lets_only_what_satisfies_it_pass", sql},
	{"broadcast_gives_every_consumer_every_message", broadcast},
	{"polling_consumer_is_given_what_was_sent", polling},
	{"pull_reads_from_the_offset_it_names", pullFrom},
	{"request_is_answered_to_who_asked", requests},
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: NAME_SERVER")
		os.Exit(2)
	}
	nameServer = os.Args[1]
	rlog.SetLogLevel("error")
	only := regexp.MustCompile(os.Getenv("ONLY"))
	var running sync.WaitGroup
	var failed sync.Map
	slots := make(chan struct{}, atOnce)
	for _, c := range checks {
		if !only.MatchString(c.name) {
			continue
		}
		slots <- struct{}{}
		running.Add(1)
		go func(c check) {
			defer func() { <-slots; running.Done() }()
			if why := whyItFails(c); why != nil {
				failed.Store(c.name, true)
				fmt.Printf("FAIL go/%s: %s\n", c.name, shortened(why.Error()))
			} else {
				fmt.Printf("ok go/%s\n", c.name)
			}
		}(c)
	}
	running.Wait()
	status := 0
	failed.Range(func(any, any) bool { status = 1; return false })
	os.Exit(status) // the library may leave goroutines that never end
}

// Nil when the check passes within its time.
func whyItFails(c check) error {
	outcome := make(chan error, 1)
	go func() {
		defer func() {
			if cause := recover(); cause != nil {
				outcome <- fmt.Errorf("panic: %v", cause)
			}
		}()
		outcome <- c.run()
	}()
	select {
	case why := <-outcome:
		return why
	case <-time.After(limit):
		return fmt.Errorf("not done within %v", limit)
	}
}

func shortened(text string) string {
	return fmt.Sprintf("%.500s", strings.Join(strings.Fields(text), " "))
}
