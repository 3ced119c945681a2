package main

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

const patience = 100 * time.Second

var nameServer string

func names() primitive.NsResolver {
	return primitive.NewPassthroughResolver([]string{nameServer})
}

func unused(prefix string) string {
	return prefix + "-" + strconv.FormatInt(rand.Int63n(1<<52), 36)
}

// A topic that nobody else uses, on every broker.
func topic(queues int) (string, error) {
	name := unused("interop-go")
	said, err := exec.Command("python3", os.Getenv("ADMIN"), nameServer, "topic", name, strconv.Itoa(queues)).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cannot create a topic: %v: %s", err, said)
	}
	return name, nil
}

// Messages with everything a producer can set, each different.
func letters(topic string, count int, tags ...string) []*primitive.Message {
	if len(tags) == 0 {
		tags = []string{"tag0", "tag1", "tag2"}
	}
	made := make([]*primitive.Message, count)
	for n := range made {
		body := make([]byte, 1+rand.Intn(1500))
		rand.Read(body)
		made[n] = primitive.NewMessage(topic, body)
		made[n].WithTag(tags[n%len(tags)])
		made[n].WithKeys([]string{fmt.Sprintf("order-%d", n), fmt.Sprintf("größe-%d", n%7)})
		made[n].WithProperty("number", strconv.Itoa(n))
		made[n].WithProperty("stadt", fmt.Sprintf("Zürich %d", n%5))
	}
	return made
}

func number(m *primitive.Message) int {
	n, err := strconv.Atoi(m.GetProperty("number"))
	if err != nil {
		panic(err)
	}
	return n
}

// All that must arrive of a message, in a form that compares.
func content(m *primitive.Message) string {
	return fmt.Sprintf("%s|%s|%s|%s|%x", m.GetProperty("number"), m.GetTags(), m.GetKeys(), m.GetProperty("stadt"), m.Body)
}

func sameContents(arrived []*primitive.MessageExt, sent []*primitive.Message) error {
	left := map[string]int{}
	for _, m := range sent {
		left[content(m)]++
	}
	var extra, missing []string
	for _, m := range arrived {
		if left[content(&m.Message)]--; left[content(&m.Message)] < 0 {
			extra = append(extra, m.GetProperty("number"))
		}
	}
	for what, count := range left {
		if count > 0 {
			missing = append(missing, what[:strings.IndexByte(what, '|')])
		}
	}
	if len(extra)+len(missing) > 0 {
		sort.Strings(missing)
		return fmt.Errorf("missing %d: %.80v, too many %d: %.80v", len(missing), missing, len(extra), extra)
	}
	return nil
}

func where(sent []*primitive.Message, wanted func(*primitive.Message) bool) []*primitive.Message {
	var chosen []*primitive.Message
	for _, m := range sent {
		if wanted(m) {
			chosen = append(chosen, m)
		}
	}
	return chosen
}

// What a consumer was given, in the order it came.
type inbox struct {
	mutex sync.Mutex
	items []*primitive.MessageExt
}

func (i *inbox) take(messages ...*primitive.MessageExt) {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	i.items = append(i.items, messages...)
}

func (i *inbox) all() []*primitive.MessageExt {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	return append([]*primitive.MessageExt(nil), i.items...)
}

// Waits until at least `count` messages came.
func (i *inbox) await(count int, limit time.Duration) error {
	for begun := time.Now(); len(i.all()) < count; time.Sleep(20 * time.Millisecond) {
		if time.Since(begun) > limit {
			return fmt.Errorf("%d of %d messages came within %v", len(i.all()), count, limit)
		}
	}
	return nil
}

// Waits for what was sent, then a little longer for one too many.
func (i *inbox) awaitJust(sent []*primitive.Message) error {
	if err := i.await(len(sent), patience); err != nil {
		return err
	}
	time.Sleep(time.Second)
	return sameContents(i.all(), sent)
}

func startProducer(options ...producer.Option) (rocketmq.Producer, error) {
	options = append([]producer.Option{producer.WithNsResolver(names()), producer.WithGroupName(unused("producers")),
		producer.WithInstanceName(unused("client"))}, options...)
	made, err := rocketmq.NewProducer(options...)
	if err != nil {
		return nil, err
	}
	return made, made.Start()
}

type listener func(context.Context, *primitive.MessageExt) consumer.ConsumeResult

type push struct {
	rocketmq.PushConsumer
	inbox inbox
	group string
}

func everything() consumer.MessageSelector {
	return consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}
}

// A push consumer that keeps what it is given, and answers what `answer` says, or success. From the first offset, in a
// group of its own unless told otherwise.
func startPush(topic string, selector consumer.MessageSelector, answer listener, options ...consumer.Option) (*push, error) {
	p := &push{group: unused("consumers")}
	options = append([]consumer.Option{consumer.WithNsResolver(names()), consumer.WithGroupName(p.group),
		consumer.WithInstance(unused("client")), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset)}, options...)
	made, err := rocketmq.NewPushConsumer(options...)
	if err != nil {
		return nil, err
	}
	p.PushConsumer = made
	err = made.Subscribe(topic, selector, func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		result := consumer.ConsumeSuccess
		for _, m := range messages {
			if answer != nil {
				result = answer(ctx, m)
			}
		}
		p.inbox.take(messages...)
		return result, nil
	})
	if err != nil {
		return nil, err
	}
	return p, made.Start()
}
