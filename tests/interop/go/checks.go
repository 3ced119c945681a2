package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
)

var background = context.Background()

// A topic, a producer, and a consumer of all of the topic; to be ended by the function that is returned.
func pair(queues int, selector consumer.MessageSelector, answer listener, options ...consumer.Option) (string, rocketmq.Producer, *push, func(), error) {
	name, err := topic(queues)
	if err != nil {
		return "", nil, nil, nil, err
	}
	c, err := startPush(name, selector, answer, options...)
	if err != nil {
		return "", nil, nil, nil, err
	}
	p, err := startProducer()
	return name, p, c, func() { _ = p.Shutdown(); _ = c.Shutdown() }, err
}

func sendAll(p rocketmq.Producer, sent []*primitive.Message) error {
	for _, letter := range sent {
		result, err := p.SendSync(background, letter)
		if err != nil {
			return fmt.Errorf("message %d: %w", number(letter), err)
		}
		if result.Status != primitive.SendOK {
			return fmt.Errorf("message %d: %v", number(letter), result)
		}
	}
	return nil
}

func syncSends() error {
	name, p, c, end, err := pair(4, everything(), nil)
	if err != nil {
		return err
	}
	defer end()
	sent := letters(name, 150)
	// Longer than 4 KiB: such bodies the client compresses.
	sent[7].Body = make([]byte, 40_000)
	if err := sendAll(p, sent); err != nil {
		return err
	}
	return c.inbox.awaitJust(sent)
}

func asyncSends() error {
	name, p, c, end, err := pair(4, everything(), nil)
	if err != nil {
		return err
	}
	defer end()
	sent := letters(name, 100)
	outcomes := make(chan error, len(sent))
	for _, letter := range sent {
		err := p.SendAsync(background, func(_ context.Context, _ *primitive.SendResult, err error) { outcomes <- err }, letter)
		if err != nil {
			return err
		}
	}
	for range sent {
		select {
		case err := <-outcomes:
			if err != nil {
				return err
			}
		case <-time.After(patience):
			return errors.New("a send has no answer")
		}
	}
	return c.inbox.awaitJust(sent)
}

func oneWaySends() error {
	name, p, c, end, err := pair(4, everything(), nil)
	if err != nil {
		return err
	}
	defer end()
	sent := letters(name, 80)
	for _, letter := range sent {
		if err := p.SendOneWay(background, letter); err != nil {
			return err
		}
		time.Sleep(2 * time.Millisecond) // what is sent one way, a busy server may drop
	}
	return c.inbox.awaitJust(sent)
}

func batches() error {
	name, p, c, end, err := pair(4, everything(), nil)
	if err != nil {
		return err
	}
	defer end()
	sent := letters(name, 90)
	for n := 0; n < len(sent); n += 30 {
		if _, err := p.SendSync(background, sent[n:n+30]...); err != nil {
			return err
		}
	}
	return c.inbox.awaitJust(sent)
}

// Some messages are refused once, as an orderly consumer does it: it is given the same again, and no later one before.
func orderly() error {
	const keys = 8
	var mutex sync.Mutex
	seen := map[string]int{}
	name, _, c, end, err := pair(4, everything(), func(_ context.Context, m *primitive.MessageExt) consumer.ConsumeResult {
		mutex.Lock()
		defer mutex.Unlock()
		seen[m.MsgId]++
		if number(&m.Message)%10 == 3 && seen[m.MsgId] == 1 {
			return consumer.SuspendCurrentQueueAMoment
		}
		return consumer.ConsumeSuccess
	}, consumer.WithConsumerOrder(true), consumer.WithSuspendCurrentQueueTimeMillis(50*time.Millisecond))
	if err != nil {
		return err
	}
	defer end()
	ordered, err := startProducer(producer.WithQueueSelector(producer.NewHashQueueSelector()))
	if err != nil {
		return err
	}
	defer ordered.Shutdown()
	sent := letters(name, 160)
	for n, letter := range sent {
		letter.WithShardingKey(fmt.Sprint("key", n%keys))
	}
	if err := sendAll(ordered, sent); err != nil {
		return err
	}
	suspended := len(where(sent, func(m *primitive.Message) bool { return number(m)%10 == 3 }))
	if err := c.inbox.await(len(sent)+suspended, patience); err != nil {
		return err
	}
	next := map[int]int{}
	for _, m := range c.inbox.all() {
		key := number(&m.Message) % keys
		switch wanted := key + keys*next[key]; number(&m.Message) {
		case wanted:
			next[key]++
		case wanted - keys: // again, since it was suspended
		default:
			return fmt.Errorf("key %d: message %d came where %d was next", key, number(&m.Message), wanted)
		}
	}
	for key := 0; key < keys; key++ {
		if next[key] != len(sent)/keys {
			return fmt.Errorf("key %d: %d of %d messages came", key, next[key], len(sent)/keys)
		}
	}
	return nil
}

func sharing() error {
	name, p, c, end, err := pair(4, everything(), nil)
	if err != nil {
		return err
	}
	defer end()
	other, err := startPush(name, everything(), nil, consumer.WithGroupName(c.group))
	if err != nil {
		return err
	}
	defer other.Shutdown()
	// Sent until both have had some: members hear of each other a moment after they start.
	var sent []*primitive.Message
	for begun := time.Now(); len(c.inbox.all()) < 10 || len(other.inbox.all()) < 10; {
		if time.Since(begun) > patience {
			return fmt.Errorf("of %d messages one member got %d, the other %d", len(sent), len(c.inbox.all()), len(other.inbox.all()))
		}
		more := letters(name, 8)
		for n, letter := range more {
			letter.WithProperty("number", fmt.Sprint(len(sent)+n))
		}
		if err := sendAll(p, more); err != nil {
			return err
		}
		sent = append(sent, more...)
		time.Sleep(100 * time.Millisecond)
	}
	for begun := time.Now(); len(c.inbox.all())+len(other.inbox.all()) < len(sent) && time.Since(begun) < patience; {
		time.Sleep(20 * time.Millisecond)
	}
	// A queue that changes hands may repeat what was under way; nothing is missing.
	came := map[string]bool{}
	for _, m := range append(c.inbox.all(), other.inbox.all()...) {
		came[content(&m.Message)] = true
	}
	missing := where(sent, func(m *primitive.Message) bool { return !came[content(m)] })
	if len(missing) > 0 {
		return fmt.Errorf("%d of %d messages are missing", len(missing), len(sent))
	}
	return nil
}

func tags() error {
	name, p, c, end, err := pair(4, consumer.MessageSelector{Type: consumer.TAG, Expression: "red || AaAa || green"}, nil)
	if err != nil {
		return err
	}
	defer end()
	sent := letters(name, 100, "red", "AaAa", "BBBB", "green", "Red") // "AaAa" and "BBBB" have one hash code
	if err := sendAll(p, sent); err != nil {
		return err
	}
	return c.inbox.awaitJust(where(sent, func(m *primitive.Message) bool {
		return m.GetTags() == "red" || m.GetTags() == "AaAa" || m.GetTags() == "green"
	}))
}

func sql() error {
	condition := "number BETWEEN 10 AND 59 AND (stadt IN ('Zürich 1', 'Zürich 3') OR TAGS = 'tag0') AND missing IS NULL"
	name, p, c, end, err := pair(4, consumer.MessageSelector{Type: consumer.SQL92, Expression: condition}, nil)
	if err != nil {
		return err
	}
	defer end()
	sent := letters(name, 80)
	if err := sendAll(p, sent); err != nil {
		return err
	}
	return c.inbox.awaitJust(where(sent, func(m *primitive.Message) bool {
		city := m.GetProperty("stadt")
		return number(m) >= 10 && number(m) <= 59 && (city == "Zürich 1" || city == "Zürich 3" || m.GetTags() == "tag0")
	}))
}

func broadcast() error {
	all := consumer.WithConsumerModel(consumer.BroadCasting)
	name, p, one, end, err := pair(4, everything(), nil, all)
	if err != nil {
		return err
	}
	defer end()
	// The client keeps offsets of a broadcast in a file by client, so that neither finds the other's.
	other, err := startPush(name, everything(), nil, all, consumer.WithGroupName(one.group))
	if err != nil {
		return err
	}
	defer other.Shutdown()
	sent := letters(name, 50)
	if err := sendAll(p, sent); err != nil {
		return err
	}
	if err := one.inbox.awaitJust(sent); err != nil {
		return err
	}
	return other.inbox.awaitJust(sent)
}

func polling() error {
	name, err := topic(2)
	if err != nil {
		return err
	}
	p, err := startProducer()
	if err != nil {
		return err
	}
	defer p.Shutdown()
	sent := letters(name, 60)
	if err := sendAll(p, sent); err != nil {
		return err
	}
	c, err := rocketmq.NewPullConsumer(consumer.WithNsResolver(names()), consumer.WithGroupName(unused("consumers")),
		consumer.WithInstance(unused("client")), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	if err != nil {
		return err
	}
	if err := c.Subscribe(name, everything()); err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	defer c.Shutdown()
	var polled inbox
	for begun := time.Now(); len(polled.all()) < len(sent) && time.Since(begun) < patience; {
		request, err := c.Poll(background, time.Second)
		if consumer.IsNoNewMsgError(err) {
			continue
		}
		if err != nil {
			return err
		}
		polled.take(request.GetMsgList()...)
		c.ACK(background, request, consumer.ConsumeSuccess)
	}
	return polled.awaitJust(sent)
}

func pullFrom() error {
	name, err := topic(1)
	if err != nil {
		return err
	}
	p, err := startProducer()
	if err != nil {
		return err
	}
	defer p.Shutdown()
	sent := letters(name, 40)
	var queue *primitive.MessageQueue
	for _, letter := range sent {
		result, err := p.SendSync(background, letter)
		if err != nil {
			return err
		}
		queue = result.MessageQueue
	}
	c, err := rocketmq.NewPullConsumer(consumer.WithNsResolver(names()), consumer.WithGroupName(unused("consumers")),
		consumer.WithInstance(unused("client")))
	if err != nil {
		return err
	}
	if err := c.Subscribe(name, everything()); err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	defer c.Shutdown()
	result, err := c.PullFrom(background, queue, 25, 32)
	if err != nil {
		return err
	}
	if result.Status != primitive.PullFound || result.NextBeginOffset != 40 {
		return fmt.Errorf("status %v, next offset %d", result.Status, result.NextBeginOffset)
	}
	return sameContents(result.GetMessageExts(), sent[25:])
}

func requests() error {
	answering, err := startProducer()
	if err != nil {
		return err
	}
	defer answering.Shutdown()
	var refused sync.Map
	name, p, _, end, err := pair(2, everything(), func(_ context.Context, question *primitive.MessageExt) consumer.ConsumeResult {
		if question.GetProperty(primitive.PropertyCorrelationID) == "" {
			return consumer.ConsumeSuccess
		}
		answer, err := consumer.CreateReplyMessage(question, nil)
		if err == nil {
			answer.Body = append([]byte("re: "), question.Body...) // the client forgets the body it is given
			_, err = answering.SendSync(background, answer)
		}
		if err != nil {
			refused.Store(string(question.Body), err)
		}
		return consumer.ConsumeSuccess
	})
	if err != nil {
		return err
	}
	defer end()
	// This client tells the broker of a producer a second after its start, and only when it has sent something.
	if _, err := p.SendSync(background, primitive.NewMessage(name, []byte("no question"))); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	for n := 0; n < 10; n++ {
		question := fmt.Sprint("question ", n)
		answer, err := p.Request(background, 30*time.Second, primitive.NewMessage(name, []byte(question)))
		if err != nil {
			why, _ := refused.Load(question)
			return fmt.Errorf("%s: %w; the reply: %v", question, err, why)
		}
		if string(answer.Body) != "re: "+question {
			return fmt.Errorf("%s is answered with %q", question, answer.Body)
		}
	}
	return nil
}
