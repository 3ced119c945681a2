import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import org.apache.rocketmq.common.message.MessageExt;

/** What a consumer was given, in the order it came; filled from any thread. */
final class Inbox {
    static final class TooFew extends AssertionError {
        TooFew(String what) {
            super(what);
        }
    }

    private final List<MessageExt> messages = new ArrayList<>();

    synchronized void add(Collection<MessageExt> more) {
        messages.addAll(more);
        notifyAll();
    }

    synchronized List<MessageExt> all() {
        return new ArrayList<>(messages);
    }

    synchronized int count() {
        return messages.size();
    }

    /** Waits until at least `count` messages came. */
    synchronized List<MessageExt> await(int count, int seconds) throws InterruptedException {
        long deadline = System.nanoTime() + seconds * 1_000_000_000L;
        while (messages.size() < count) {
            long leftMs = (deadline - System.nanoTime()) / 1_000_000;
            if (leftMs <= 0) {
                throw new TooFew(messages.size() + " of " + count + " messages came within " + seconds + " s");
            }
            wait(leftMs);
        }
        return new ArrayList<>(messages);
    }

    /** Waits for `count` messages, and then a little longer for one too many. */
    List<MessageExt> awaitNoMoreThan(int count, int seconds) throws InterruptedException {
        await(count, seconds);
        Thread.sleep(1000);
        return all();
    }
}
