import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** What producers and consumers of the Java client see: NAME_SERVER CLIENT_NAME [AT_ONCE]. */
final class Suite {
    private static final int PATIENCE_S = 60;

    private Suite() {}

    public static void main(String[] arguments) throws Exception {
        Clients.nameServer = arguments[0];
        Report report = new Report(arguments[1]);
        report.check("leaving_consumer_hands_over_all_its_queues_without_loss_or_repetition", Suite::handOverAtRest);
        report.check("consumer_that_leaves_in_mid_flow_loses_nothing", Suite::handOverInMidFlow);
        report.check("refused_message_comes_again_through_the_retry_topic", Suite::sendBack);
        report.check("consumer_offsets_outlive_their_consumer", Suite::consumerOffsetsOutlive);
        report.check("suspended_queue_keeps_its_order", Suite::suspendedQueue);
        report.check("orderly_consumer_sees_send_order_in_every_queue", Suite::orderly);
        report.check("lite_pull_assigns_seeks_and_commits", Suite::litePullAssigns);
        report.check("lite_pull_subscribes_and_goes_on_where_it_committed", Suite::litePullSubscribes);
        report.check("broadcast_gives_every_consumer_every_message", Suite::broadcasting);
        report.check("tag_filter_lets_only_its_tags_pass", Suite::tagFilter);
        report.check("sync_sends_arrive_once_with_all_they_carry", Suite::syncSends);
        report.check("async_sends_arrive_once_with_all_they_carry", Suite::asyncSends);
        report.check("one_way_sends_arrive_once_with_all_they_carry", Suite::oneWaySends);
        report.check("batches_arrive_message_by_message_with_all_they_carry", Suite::batches);
        report.check("long_bodies_arrive_whole", Suite::longBodies);
        report.check("unknown_topic_is_created_by_the_first_send", Suite::unknownTopic);
        report.check("vip_channel_serves_sends_and_consumers", () -> throughChannel(client -> client.setVipChannelEnabled(true)));
        report.check("tls_serves_sends_and_consumers_on_the_plain_port", () -> throughChannel(client -> client.setUseTLS(true)));
        report.runAndExit(arguments.length > 2 ? Integer.parseInt(arguments[2]) : 6);
    }

    // ---- sending

    private static void syncSends() throws Exception {
        String topic = Clients.topic(4);
        List<Message> sent = Clients.letters(topic, 200);
        try (Clients.Push consumer = Clients.Push.start(topic); Clients.Producer producer = new Clients.Producer()) {
            Map<MessageQueue, List<Long>> places = new HashMap<>();
            for (Message letter : sent) {
                SendResult result = producer.send(letter);
                Report.same(result.getSendStatus(), SendStatus.SEND_OK, "send status");
                places.computeIfAbsent(result.getMessageQueue(), queue -> new ArrayList<>()).add(result.getQueueOffset());
            }
            places.forEach((queue, offsets) -> {
                for (int n = 0; n < offsets.size(); n++) {
                    Report.same(offsets.get(n), (long) n, "queue offset of send " + n + " to " + queue);
                }
            });
            Clients.sameContents(consumer.inbox.awaitNoMoreThan(sent.size(), PATIENCE_S), sent);
        }
    }

    private static void asyncSends() throws Exception {
        String topic = Clients.topic(4);
        List<Message> sent = Clients.letters(topic, 200);
        ConcurrentLinkedQueue<Throwable> failures = new ConcurrentLinkedQueue<>();
        Semaphore mayFly = new Semaphore(16);
        try (Clients.Push consumer = Clients.Push.start(topic); Clients.Producer producer = new Clients.Producer()) {
            for (Message letter : sent) {
                Report.holds(mayFly.tryAcquire(PATIENCE_S, TimeUnit.SECONDS), "sends without an answer");
                sendAsync(producer, letter, failures, mayFly);
            }
            Report.holds(mayFly.tryAcquire(16, PATIENCE_S, TimeUnit.SECONDS), "sends without an answer");
            Report.same(new ArrayList<>(failures), List.of(), "failed sends");
            Clients.sameContents(consumer.inbox.awaitNoMoreThan(sent.size(), PATIENCE_S), sent);
        }
    }

    private static void sendAsync(Clients.Producer producer, Message letter, Collection<Throwable> failures, Semaphore done) throws Exception {
        producer.send(letter, new SendCallback() {
            @Override public void onSuccess(SendResult result) {
                done.release();
            }

            @Override public void onException(Throwable failure) {
                try {
                    if (Clients.isBusy(failure)) {
                        sendAsync(producer, letter, failures, done);
                        return;
                    }
                } catch (Exception another) {
                    failures.add(another);
                }
                failures.add(failure);
                done.release();
            }
        }, 15_000);
    }

    private static void oneWaySends() throws Exception {
        String topic = Clients.topic(4);
        try (Clients.Push consumer = Clients.Push.start(topic); Clients.Producer producer = new Clients.Producer()) {
            for (int tries = 3; ; tries--) {   // a busy server may drop what nobody waits for, but not three times in a row
                int before = consumer.inbox.count();
                List<Message> sent = Clients.letters(topic, 100);
                for (Message letter : sent) {
                    producer.sendOneway(letter);
                    Thread.sleep(2);
                }
                try {
                    consumer.inbox.await(before + sent.size(), 20);
                } catch (Inbox.TooFew dropped) {
                    if (tries > 1) {
                        continue;
                    }
                    throw dropped;
                }
                List<MessageExt> all = consumer.inbox.awaitNoMoreThan(before + sent.size(), 1);
                Clients.sameContents(all.subList(before, all.size()), sent);
                return;
            }
        }
    }

    private static void batches() throws Exception {
        String topic = Clients.topic(4);
        List<Message> sent = Clients.letters(topic, 120);
        try (Clients.Push consumer = Clients.Push.start(topic); Clients.Producer producer = new Clients.Producer()) {
            Set<String> ids = new HashSet<>();
            for (int from = 0; from < sent.size(); from += 30) {
                SendResult result = producer.send(sent.subList(from, from + 30));
                Report.same(result.getSendStatus(), SendStatus.SEND_OK, "send status");
                ids.addAll(List.of(result.getMsgId().split(",")));
            }
            List<MessageExt> arrived = consumer.inbox.awaitNoMoreThan(sent.size(), PATIENCE_S);
            Clients.sameContents(arrived, sent);
            Report.same(arrived.stream().map(MessageExt::getMsgId).collect(Collectors.toSet()), ids, "message ids");
        }
    }

    private static void longBodies() throws Exception {
        String topic = Clients.topic(2);
        List<Message> sent = Clients.letters(topic, 4);
        sent.get(0).setBody("compressible ".repeat(20_000).getBytes());
        sent.get(1).setBody(random(100_000));
        sent.get(2).setBody(random(3_900_000));
        sent.get(3).setBody(new byte[] {0});
        try (Clients.Push consumer = Clients.Push.start(topic); Clients.Producer producer = new Clients.Producer()) {
            List<String> contents = Clients.contents(sent);   // the client replaces a body that it compresses
            for (Message letter : sent) {
                producer.send(letter);
            }
            Report.sameItems(Clients.contents(consumer.inbox.awaitNoMoreThan(4, PATIENCE_S)), contents, "messages");
        }
    }

    private static byte[] random(int length) {
        byte[] body = new byte[length];
        new java.util.Random(length).nextBytes(body);
        return body;
    }

    private static void unknownTopic() throws Exception {
        String topic = Clients.unused("interop-unknown");
        try (Clients.Producer producer = new Clients.Producer()) {
            List<Message> sent = Clients.letters(topic, 20);
            for (Message letter : sent) {
                producer.send(letter);
            }
            try (Clients.Push consumer = Clients.Push.start(topic)) {
                Clients.sameContents(consumer.inbox.awaitNoMoreThan(sent.size(), PATIENCE_S), sent);
            }
        }
    }

    private static void throughChannel(Clients.Setting<ClientConfig> channel) throws Exception {
        String topic = Clients.topic(4);
        List<Message> sent = Clients.letters(topic, 60);
        try (Clients.Push consumer = Clients.Push.start(topic, "*", channel::apply);
             Clients.Producer producer = new Clients.Producer(channel::apply)) {
            for (Message letter : sent) {
                Report.same(producer.send(letter).getSendStatus(), SendStatus.SEND_OK, "send status");
            }
            Clients.sameContents(consumer.inbox.awaitNoMoreThan(sent.size(), PATIENCE_S), sent);
        }
    }

    // ---- push consumers

    private static void broadcasting() throws Exception {
        String topic = Clients.topic(4), group = Clients.unused("broadcast");
        Clients.Setting<DefaultMQPushConsumer> broadcasting = consumer -> {
            consumer.setConsumerGroup(group);
            // The package of this enum differs between 4.9 and 5.x; its name is not written, so both compile.
            consumer.setMessageModel(Enum.valueOf(consumer.getMessageModel().getDeclaringClass(), "BROADCASTING"));
        };
        try (Clients.Push one = Clients.Push.start(topic, "*", broadcasting);
             Clients.Push other = Clients.Push.start(topic, "*", broadcasting);
             Clients.Producer producer = new Clients.Producer()) {
            List<Message> sent = sendAll(producer, Clients.letters(topic, 60));
            Clients.sameContents(one.inbox.awaitNoMoreThan(sent.size(), PATIENCE_S), sent);
            Clients.sameContents(other.inbox.awaitNoMoreThan(sent.size(), PATIENCE_S), sent);
        }
    }

    private static void tagFilter() throws Exception {
        String topic = Clients.topic(4);
        // "AaAa" and "BBBB" have one hash code, so servers that compare hashes alone need the client's second look.
        List<Message> sent = Clients.letters(topic, 100, "red", "AaAa", "BBBB", "grün", "Red");
        List<Message> wanted = sent.stream().filter(m -> Set.of("red", "AaAa", "grün").contains(m.getTags())).collect(Collectors.toList());
        try (Clients.Push consumer = Clients.Push.start(topic, "red || AaAa || grün", any -> {});
             Clients.Producer producer = new Clients.Producer()) {
            sendAll(producer, sent);
            Clients.sameContents(consumer.inbox.awaitNoMoreThan(wanted.size(), PATIENCE_S), wanted);
        }
    }

    private static void orderly() throws Exception {
        String topic = Clients.topic(4);
        try (Clients.Push consumer = Clients.Push.startOrderly(topic, (messages, context) -> ConsumeOrderlyStatus.SUCCESS);
             Clients.Producer producer = new Clients.Producer()) {
            Map<MessageQueue, List<String>> sent = sendInOrder(producer, Clients.letters(topic, 240));
            Report.same(byQueue(consumer.inbox.awaitNoMoreThan(240, PATIENCE_S)), sent, "numbers by queue");
        }
    }

    private static void suspendedQueue() throws Exception {
        String topic = Clients.topic(2);
        Set<String> refused = ConcurrentHashMap.newKeySet();
        ConcurrentLinkedQueue<MessageExt> accepted = new ConcurrentLinkedQueue<>();
        try (Clients.Push consumer = Clients.Push.startOrderly(topic, (messages, context) -> {
            MessageExt m = messages.get(0);
            if (Integer.parseInt(m.getUserProperty("number")) % 20 == 7 && refused.add(m.getMsgId())) {
                return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
            }
            accepted.add(m);
            return ConsumeOrderlyStatus.SUCCESS;
        }); Clients.Producer producer = new Clients.Producer()) {
            Map<MessageQueue, List<String>> sent = sendInOrder(producer, Clients.letters(topic, 60));
            consumer.inbox.awaitNoMoreThan(63, PATIENCE_S);
            Report.same(refused.size(), 3, "refused messages");
            Report.same(byQueue(accepted), sent, "numbers by queue");
        }
    }

    /** Sends every message to the queue that its number says, and returns the numbers by queue. */
    private static Map<MessageQueue, List<String>> sendInOrder(Clients.Producer producer, List<Message> letters) throws Exception {
        Map<MessageQueue, List<String>> numbers = new HashMap<>();
        for (Message letter : letters) {
            String number = letter.getUserProperty("number");
            SendResult result = producer.sendTo(queues -> queues.get(Integer.parseInt(number) % queues.size()), letter);
            numbers.computeIfAbsent(result.getMessageQueue(), queue -> new ArrayList<>()).add(number);
        }
        return numbers;
    }

    private static Map<MessageQueue, List<String>> byQueue(Iterable<MessageExt> messages) {
        Map<MessageQueue, List<String>> numbers = new HashMap<>();
        for (MessageExt m : messages) {
            MessageQueue queue = new MessageQueue(m.getTopic(), m.getBrokerName(), m.getQueueId());
            numbers.computeIfAbsent(queue, q -> new ArrayList<>()).add(m.getUserProperty("number"));
        }
        return numbers;
    }

    /** What two consumers of one group got, when one leaves in the middle of 2,000 messages and the other takes over within 5 s. */
    private record HandOver(List<Message> sent, List<MessageExt> leaver, List<MessageExt> stayer) {}

    private interface Middle {
        void leave(Clients.Push leaving, Clients.Push staying, ExecutorService sender, List<Message> sent, Clients.Producer producer) throws Exception;
    }

    private static HandOver handOver(Middle middle) throws Exception {
        String topic = Clients.topic(8), group = Clients.unused("shared");
        Clients.Setting<DefaultMQPushConsumer> grouped = consumer -> {
            consumer.setConsumerGroup(group);
            consumer.setPersistConsumerOffsetInterval(200);
        };
        ExecutorService sender = Executors.newSingleThreadExecutor();
        List<Message> sent = Clients.letters(topic, 2000);
        try (Clients.Push staying = Clients.Push.start(topic, "*", grouped);
             Clients.Push leaving = Clients.Push.start(topic, "*", grouped);
             Clients.Producer producer = new Clients.Producer()) {
            Set<MessageQueue> all = new HashSet<>(producer.fetchPublishMessageQueues(topic));
            within(30, "the queues are not split evenly", () -> staying.queues().size() == all.size() / 2
                && leaving.queues().size() == all.size() / 2 && union(staying.queues(), leaving.queues()).equals(all));

            middle.leave(leaving, staying, sender, sent, producer);
            within(5, "the queues of the consumer that left are not taken over", () -> staying.queues().equals(all));
            sender.shutdown();
            Report.holds(sender.awaitTermination(PATIENCE_S, TimeUnit.SECONDS), "sending takes too long");
            int rest = sent.size() - leaving.inbox.count();
            return new HandOver(sent, leaving.inbox.all(), staying.inbox.awaitNoMoreThan(rest, PATIENCE_S));
        } finally {
            sender.shutdownNow();
        }
    }

    private static void handOverAtRest() throws Exception {
        HandOver result = handOver((leaving, staying, sender, sent, producer) -> {
            sendAll(producer, sent.subList(0, 1000));
            within(PATIENCE_S, "the first half does not arrive", () -> leaving.inbox.count() + staying.inbox.count() >= 1000);
            Thread.sleep(1000);   // consumers tell the server how far they are without waiting for its answer
            leaving.close();
            sender.submit(() -> sendAll(producer, sent.subList(1000, 2000)));
        });
        List<MessageExt> arrived = new ArrayList<>(result.leaver);
        arrived.addAll(result.stayer);
        Clients.sameContents(arrived, result.sent);
    }

    /** In mid-flow the last offsets of the one may reach the server after the other asked for them, so its last messages may repeat. */
    private static void handOverInMidFlow() throws Exception {
        HandOver result = handOver((leaving, staying, sender, sent, producer) -> {
            sender.submit(() -> sendAll(producer, sent));
            leaving.inbox.await(300, PATIENCE_S);
            staying.inbox.await(300, PATIENCE_S);
            leaving.close();
        });
        Report.holds(result.leaver.size() < 1900, "the consumer left too late to show anything");
        List<String> leaver = Clients.contents(result.leaver), stayer = Clients.contents(result.stayer);
        Report.sameItems(new ArrayList<>(union(new HashSet<>(leaver), new HashSet<>(stayer))), Clients.contents(result.sent), "distinct messages");
        Report.same(stayer.size(), new HashSet<>(stayer).size(), "messages to the one that stayed, without repetitions,");
        Report.holds(leaver.size() + stayer.size() < 2000 + 100, leaver.size() + stayer.size() + " deliveries of 2000 messages");
    }

    private static <T> Set<T> union(Set<T> left, Set<T> right) {
        Set<T> all = new HashSet<>(left);
        all.addAll(right);
        return all;
    }

    private interface Condition {
        boolean holds();
    }

    private static void within(int seconds, String otherwise, Condition condition) throws InterruptedException {
        long deadline = System.nanoTime() + seconds * 1_000_000_000L;
        while (!condition.holds()) {
            Report.holds(System.nanoTime() < deadline, otherwise + " within " + seconds + " s");
            Thread.sleep(20);
        }
    }

    private static void consumerOffsetsOutlive() throws Exception {
        String topic = Clients.topic(4), group = Clients.unused("resuming");
        Clients.Setting<DefaultMQPushConsumer> grouped = consumer -> consumer.setConsumerGroup(group);
        try (Clients.Producer producer = new Clients.Producer()) {
            List<Message> first = sendAll(producer, Clients.letters(topic, 50));
            try (Clients.Push consumer = Clients.Push.start(topic, "*", grouped)) {
                Clients.sameContents(consumer.inbox.awaitNoMoreThan(first.size(), PATIENCE_S), first);
            }
            List<Message> second = sendAll(producer, Clients.letters(topic, 30));
            try (Clients.Push consumer = Clients.Push.start(topic, "*", grouped)) {
                Clients.sameContents(consumer.inbox.awaitNoMoreThan(second.size(), PATIENCE_S), second);
            }
        }
    }

    private static void sendBack() throws Exception {
        String topic = Clients.topic(2);
        Function<MessageExt, Boolean> isRefused = m -> m.getReconsumeTimes() == 0 && Integer.parseInt(m.getUserProperty("number")) % 4 == 0;
        try (Clients.Push consumer = Clients.Push.start(topic, "*", any -> {}, (messages, context) -> {
            context.setDelayLevelWhenNextConsume(1);
            return isRefused.apply(messages.get(0)) ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }); Clients.Producer producer = new Clients.Producer()) {
            List<Message> sent = sendAll(producer, Clients.letters(topic, 20));
            consumer.inbox.await(sent.size(), PATIENCE_S);
            List<MessageExt> arrived = consumer.inbox.await(sent.size() + 5, 30);

            List<MessageExt> again = arrived.stream().filter(m -> m.getReconsumeTimes() > 0).collect(Collectors.toList());
            List<MessageExt> refused = arrived.stream().filter(isRefused::apply).collect(Collectors.toList());
            Clients.sameContents(again, refused);
            for (MessageExt m : again) {
                Report.same(m.getReconsumeTimes(), 1, "reconsume times");
                Report.same(m.getTopic(), topic, "topic as consumers see it");
                Report.same(m.getProperty("RETRY_TOPIC"), topic, "property RETRY_TOPIC");
            }
        }
    }

    // ---- lite pull consumers

    private static void litePullAssigns() throws Exception {
        String topic = Clients.topic(2), group = Clients.unused("assigning");
        int perQueue = 20;
        try (Clients.Producer producer = new Clients.Producer()) {
            List<Message> sent = Clients.letters(topic, perQueue * producer.fetchPublishMessageQueues(topic).size());
            sendInOrder(producer, sent);
            try (Clients.LitePull consumer = new Clients.LitePull(group)) {
                List<MessageQueue> queues = consumer.assignAll(topic);
                Clients.sameContents(consumer.pollCount(sent.size(), 30), sent);

                for (MessageQueue queue : queues) {
                    consumer.seek(queue, 15);
                }
                Report.same(offsets(consumer.pollCount(5 * queues.size(), 30)), range(15, perQueue), "queue offsets after the seek");
                consumer.commitSync(queues.stream().collect(Collectors.toMap(queue -> queue, queue -> 12L)), true);
            }
            Clients.awaitCommitted(group, topic, 12, 2);
            try (Clients.LitePull consumer = new Clients.LitePull(group)) {
                List<MessageQueue> queues = consumer.assignAll(topic);
                for (MessageQueue queue : queues) {
                    Report.same(consumer.committed(queue), 12L, "committed offset");
                }
                Report.same(offsets(consumer.pollCount(8 * queues.size(), 30)), range(12, perQueue), "queue offsets after the restart");
            }
        }
    }

    private static Set<Long> offsets(List<MessageExt> messages) {
        return messages.stream().map(MessageExt::getQueueOffset).collect(Collectors.toSet());
    }

    private static Set<Long> range(long from, long to) {
        return java.util.stream.LongStream.range(from, to).boxed().collect(Collectors.toSet());
    }

    private static void litePullSubscribes() throws Exception {
        String topic = Clients.topic(4), group = Clients.unused("subscribing");
        Clients.Setting<org.apache.rocketmq.client.consumer.DefaultLitePullConsumer> subscribed = consumer -> consumer.subscribe(topic, "yes");
        try (Clients.Producer producer = new Clients.Producer()) {
            for (int round = 0; round < 2; round++) {
                List<Message> sent = sendAll(producer, Clients.letters(topic, 60, "yes", "no"));
                List<Message> wanted = sent.stream().filter(m -> m.getTags().equals("yes")).collect(Collectors.toList());
                try (Clients.LitePull consumer = new Clients.LitePull(group, subscribed)) {
                    List<MessageExt> polled = new ArrayList<>(consumer.pollCount(wanted.size(), 30));
                    polled.addAll(consumer.poll(1000));
                    Clients.sameContents(polled, wanted);
                    consumer.commitSync();
                }   // closing carries the commit to the server
            }
        }
    }

    private static List<Message> sendAll(DefaultMQProducer producer, List<Message> letters) throws Exception {
        for (Message letter : letters) {
            producer.send(letter);
        }
        return letters;
    }
}
