import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Messages beyond the plain ones: delayed, transactional, filtered, dead, requested: NAME_SERVER CLIENT_NAME. */
final class Kinds {
    /** A server may look at open transactions every minute only. */
    private static final int PATIENCE_S = 100;

    private Kinds() {}

    public static void main(String[] arguments) throws Exception {
        Clients.nameServer = arguments[0];
        Report report = new Report(arguments[1]);
        report.check("transactions_end_as_their_producer_says_also_when_it_is_asked", Kinds::transactions);
        report.check("delayed_messages_come_after_their_level_and_never_before", Kinds::delayLevels);
        report.check("timer_messages_come_at_their_time_and_never_before", Kinds::timers);
        report.check("sql_condition_lets_only_what_satisfies_it_pass", Kinds::sql);
        report.check("message_that_always_fails_ends_in_the_dead_letter_queue", Kinds::deadLetters);
        report.check("request_is_answered_to_who_asked", Kinds::requests);
        report.check("producers_keep_to_the_queues_that_the_order_of_a_topic_names", Kinds::orderOverAllBrokers);
        report.check("compacted_topic_shows_the_latest_message_of_each_key", Kinds::compacted);
        report.runAndExit(8);
    }

    /** By number: 0 committed, 1 rolled back, 2 committed when asked, 3 rolled back when asked, and so on. */
    private static final class Decisions implements TransactionListener {
        private final Set<String> asked = ConcurrentHashMap.newKeySet();

        @Override public LocalTransactionState executeLocalTransaction(Message half, Object nothing) {
            switch (number(half) % 4) {
                case 0: return LocalTransactionState.COMMIT_MESSAGE;
                case 1: return LocalTransactionState.ROLLBACK_MESSAGE;
                default: return LocalTransactionState.UNKNOW;
            }
        }

        @Override public LocalTransactionState checkLocalTransaction(MessageExt half) {
            asked.add(half.getTransactionId());
            return number(half) % 4 == 2 ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE;
        }
    }

    private static void orderOverAllBrokers() throws Exception {
        String topic = Clients.topicInOrder();
        try (Clients.Push consumer = Clients.Push.startOrderly(topic, (messages, context) -> ConsumeOrderlyStatus.SUCCESS);
             Clients.Producer producer = new Clients.Producer()) {
            List<Message> sent = Clients.letters(topic, 60);
            for (Message letter : sent) {
                producer.sendTo(queues -> queues.get(0), letter);
            }
            List<MessageExt> inbox = consumer.inbox.awaitNoMoreThan(sent.size(), PATIENCE_S);
            Report.same(inbox.stream().map(Kinds::number).collect(Collectors.toList()),
                sent.stream().map(Kinds::number).collect(Collectors.toList()), "numbers in the order they were sent");
            List<Integer> queues = producer.fetchPublishMessageQueues(topic).stream().map(MessageQueue::getQueueId).collect(Collectors.toList());
            Report.holds(queues.stream().allMatch(id -> id == 0), "producers are told of queues " + queues);
        }
    }

    private static int number(Message message) {
        return Integer.parseInt(message.getUserProperty("number"));
    }

    private static void transactions() throws Exception {
        String topic = Clients.topic(4);
        Decisions decisions = new Decisions();
        TransactionMQProducer producer = new TransactionMQProducer(Clients.unused("producers"));
        producer.setNamesrvAddr(Clients.nameServer);
        producer.setInstanceName(Clients.unused("client"));
        producer.setHeartbeatBrokerInterval(2_000);
        producer.setTransactionListener(decisions);
        producer.start();
        try (Clients.Push consumer = Clients.Push.start(topic)) {
            List<Message> sent = Clients.letters(topic, 40);
            for (Message letter : sent) {
                producer.sendMessageInTransaction(letter, null);
            }
            List<Message> committed = sent.stream().filter(m -> number(m) % 2 == 0).collect(Collectors.toList());
            Clients.sameContents(consumer.inbox.awaitNoMoreThan(committed.size(), PATIENCE_S), committed);
            Report.holds(decisions.asked.size() >= 10, "asked about " + decisions.asked.size() + " of 20 open transactions");
        } finally {
            producer.shutdown();
        }
    }

    /** How long after it was made each message was stored for its consumers, ms, by number. */
    private static Map<Integer, Long> delays(List<MessageExt> arrived) {
        return arrived.stream().collect(Collectors.toMap(Kinds::number, m -> m.getStoreTimestamp() - m.getBornTimestamp()));
    }

    private static void delayLevels() throws Exception {
        String topic = Clients.topic(2);
        try (Clients.Push consumer = Clients.Push.start(topic); Clients.Producer producer = new Clients.Producer()) {
            List<Message> sent = Clients.letters(topic, 20);
            for (Message letter : sent) {
                letter.setDelayTimeLevel(1 + number(letter) % 2);   // 1 s, 5 s
                producer.send(letter);
            }
            List<MessageExt> arrived = consumer.inbox.awaitNoMoreThan(sent.size(), PATIENCE_S);
            Clients.sameContents(arrived, sent);
            delays(arrived).forEach((n, delay) -> Report.holds(delay >= (n % 2 == 0 ? 1_000 : 5_000), "message " + n + " after " + delay + " ms"));
        }
    }

    private static void timers() throws Exception {
        String topic = Clients.topic(2);
        try (Clients.Push consumer = Clients.Push.start(topic); Clients.Producer producer = new Clients.Producer()) {
            List<Message> sent = Clients.letters(topic, 20);
            for (Message letter : sent) {
                if (number(letter) % 2 == 0) {
                    MessageAccessor.putProperty(letter, "TIMER_DELAY_SEC", "3");
                } else {
                    MessageAccessor.putProperty(letter, "TIMER_DELIVER_MS", String.valueOf(System.currentTimeMillis() + 4_000));
                }
                producer.send(letter);
            }
            List<MessageExt> arrived = consumer.inbox.awaitNoMoreThan(sent.size(), PATIENCE_S);
            Clients.sameContents(arrived, sent);
            // Java's wheel turns by the second, and what is due within one comes at its beginning.
            delays(arrived).forEach((n, delay) -> Report.holds(delay >= 2_000, "message " + n + " after " + delay + " ms"));
        }
    }

    private static void sql() throws Exception {
        String topic = Clients.topic(4);
        String condition = "number BETWEEN 10 AND 59 AND (stadt IN ('Zürich 1', 'Zürich 3') OR TAGS = 'tag0') AND missing IS NULL";
        List<Message> sent = Clients.letters(topic, 80);
        Set<String> cities = Set.of("Zürich 1", "Zürich 3");
        List<Message> wanted = sent.stream().filter(m -> number(m) >= 10 && number(m) <= 59
            && (cities.contains(m.getUserProperty("stadt")) || m.getTags().equals("tag0"))).collect(Collectors.toList());
        try (Clients.Push consumer = Clients.Push.start(topic, "*", push -> push.subscribe(topic, MessageSelector.bySql(condition)));
             Clients.Producer producer = new Clients.Producer()) {
            for (Message letter : sent) {
                producer.send(letter);
            }
            Clients.sameContents(consumer.inbox.awaitNoMoreThan(wanted.size(), PATIENCE_S), wanted);
        }
    }

    private static void deadLetters() throws Exception {
        String topic = Clients.topic(1);
        AtomicReference<String> group = new AtomicReference<>();
        try (Clients.Push consumer = Clients.Push.start(topic, "*", push -> {
            push.setMaxReconsumeTimes(1);
            group.set(push.getConsumerGroup());
        }, (messages, context) -> {
            context.setDelayLevelWhenNextConsume(1);
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        }); Clients.Producer producer = new Clients.Producer()) {
            List<Message> sent = Clients.letters(topic, 3);
            for (Message letter : sent) {
                producer.send(letter);
            }
            consumer.inbox.await(2 * sent.size(), PATIENCE_S);
            String dead = "%DLQ%" + group.get();
            try (Clients.LitePull reader = new Clients.LitePull(Clients.unused("readers"))) {
                List<MessageExt> read = new ArrayList<>();
                for (int tries = 20; read.size() < sent.size() && tries > 0; tries--) {
                    try {
                        reader.assignAll(dead);
                        read.addAll(reader.pollCount(sent.size() - read.size(), 5));
                    } catch (Exception notYet) {
                        Thread.sleep(500);
                    }
                }
                Clients.sameContents(read, sent);
                for (MessageExt m : read) {
                    Report.same(m.getProperty("DLQ_ORIGIN_TOPIC"), topic, "property DLQ_ORIGIN_TOPIC");
                }
            }
        }
    }

    /** The number of the latest message of each key. */
    private static Map<String, Integer> latest(List<? extends Message> messages) {
        Map<String, Integer> latest = new HashMap<>();
        messages.forEach(m -> latest.put(m.getKeys(), number(m)));
        return latest;
    }

    private static void compacted() throws Exception {
        String topic = Clients.compactedTopic(1);
        try (Clients.Producer producer = new Clients.Producer()) {
            try {
                producer.send(new Message(topic, "no key".getBytes(StandardCharsets.UTF_8)));
                Report.holds(false, "a message without a key was taken");
            } catch (MQBrokerException refused) {
                Report.same(refused.getResponseCode(), 13, "response code to a message without a key");
            }
            List<Message> sent = Clients.letters(topic, 120);
            for (Message letter : sent) {
                letter.setKeys("key " + number(letter) % 7);
                producer.send(letter);
            }
            int last = sent.size() - 1;
            Thread.sleep(2_000);   // a server may compact it meanwhile
            try (Clients.LitePull reader = new Clients.LitePull(Clients.unused("readers"))) {
                // From the first offset, by its setting: a seek while a pull is under way may show messages twice.
                reader.assignAll(topic);
                List<MessageExt> read = new ArrayList<>();
                for (int tries = 40; tries > 0 && read.stream().noneMatch(m -> number(m) == last); tries--) {
                    read.addAll(reader.poll(500));
                }
                Report.same(latest(read), latest(sent), "latest messages by lite pull");
                for (int n = 1; n < read.size(); n++) {
                    Report.holds(read.get(n - 1).getQueueOffset() < read.get(n).getQueueOffset(), "messages in their order");
                }
            }
            try (Clients.Push consumer = Clients.Push.start(topic)) {
                for (int tries = 40; tries > 0 && consumer.inbox.all().stream().noneMatch(m -> number(m) == last); tries--) {
                    Thread.sleep(500);
                }
                Map<String, Integer> pushed = new HashMap<>();
                consumer.inbox.all().forEach(m -> pushed.merge(m.getKeys(), number(m), Math::max));
                Report.same(pushed, latest(sent), "latest messages by push");
            }
        }
    }

    private static void requests() throws Exception {
        String topic = Clients.topic(2);
        try (Clients.Producer replier = new Clients.Producer(); Clients.Push consumer = Clients.Push.start(topic, "*", any -> {}, (messages, context) -> {
            try {
                for (MessageExt question : messages) {
                    byte[] answer = ("re: " + new String(question.getBody(), StandardCharsets.UTF_8)).getBytes(StandardCharsets.UTF_8);
                    replier.send(MessageUtil.createReplyMessage(question, answer));
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            } catch (Exception failed) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
        }); Clients.Producer asker = new Clients.Producer()) {
            Set<String> answers = new HashSet<>();
            Set<String> expected = new HashSet<>();
            for (int n = 0; n < 10; n++) {
                Message answer = asker.request(new Message(topic, ("question " + n).getBytes(StandardCharsets.UTF_8)), 30_000);
                answers.add(new String(answer.getBody(), StandardCharsets.UTF_8));
                expected.add("re: question " + n);
            }
            Report.same(answers, expected, "answers");
        }
    }
}
