/*
 * Sleeping and waking: doorbell, window, spinner, the waiters of the reader lock, callers asleep on their words,
 * and a node that is given up. Nothing here has a time-out but the batch window, and that only while its batch is
 * not full: so a wake that is lost shows as somebody who sleeps on, and no backstop hides it.
 *
 * As in node.pml: sequentially consistent (orderings and fences are loom's), a step is one access to shared memory
 * before which its process may die, and what is checked there is one step here: a push, and claim with `head`.
 *
 * What is in it
 *   Caller     pushes its item, wakes whom it must, sleeps on the word until the outcome is there; ROUNDS times.
 *              With SUBMIT it pushes all, and only then waits, in the end; how it would sleep is left out.
 *   Worker     `collect::Loop`: looks, spins with the mark, announces itself, looks again, sleeps; takes the lock or
 *              sleeps on that; waits out a window (WINDOW); takes up to BATCH items; wakes one more for what it leaves.
 *              With SLOW it works until nothing is left in the ring: others must take that. With STOPPED the first one may
 *              stand still while it spins, for ever, and with its mark.
 *   Mover      (MOVER) pushes one item, and may die over it.
 *   Repairer   forgets the dead at the doorbell, frees their lock, answers or pushes what they had, wakes everybody;
 *              then a dead worker comes back. With DOWN none does, but for LIVES of them in all: the node is marked
 *              and its ring emptied, until, with TRIAL, a worker is ready again.
 *
 * What is checked: in the end nobody sleeps on with something to do, every item has been answered, and nothing
 * is left in the line or the lock (Judge).
 *
 * How many deaths there may be is drawn at the beginning: if one could still come, it would come and have everybody woken.
 */

#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef CALLERS
#define CALLERS 2
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef BATCH
#define BATCH 1
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifdef SUBMIT
#define SENT (CALLERS * ROUNDS)
#else
#define SENT CALLERS
#endif
#ifdef MOVER
#define ITEMS (SENT + 1)
#else
#define ITEMS SENT
#endif
#define PUSHES (CALLERS * ROUNDS + 1)

/* word: owner (4) | WAITING | phase (2) */
#define FREE    0
#define QUEUED  1
#define CLAIMED 2
#define DONE    3
#define WAITING 4
#define PHASE(w) ((w) & 3)
#define OWNER(w) ((w) >> 3)
byte word[ITEMS];
bool caller_sleeps[ITEMS];

byte item[PUSHES];              /* the ring: what was pushed at each position */
byte tail, head;
#define PENDING (head < tail)

/* lock: WAITERS | token */
#define WAITERS 32
byte lock;
bool waits[WORKERS];            /* asleep on the lock */
#define HOLDER (lock & 31)

/* The doorbell's line. */
byte sleepers, wake_at, holder, spinner;
bool down;
/* Each worker's bell. */
byte bell[WORKERS];
bool sleeps[WORKERS];

/* Tokens: workers from 1, the mover, the server, and new ones after deaths. */
#define MOVER_TOKEN  5
#define SERVER_TOKEN 6
#define FIRST_NEW    7
#define TOKENS (FIRST_NEW + DEATHS + 1)
bool dead[TOKENS], mended[TOKENS];
byte number[TOKENS];            /* at the doorbell */
byte new_token = FIRST_NEW;
byte deaths, lives = WORKERS, callers_done;
bool mover_over = true;

#define DIE deaths--; dead[me] = true; goto died
#define STEP(access) atomic { if :: deaths > 0 -> DIE :: true -> access fi }
#define LIVING(access) atomic { access }

#define LOWEST(mask) ((mask) & 1 -> 0 : ((mask) & 2 -> 1 : 2))

#define WAKE_ONE_WAITER \
    if \
    :: waits[0] -> waits[0] = false \
    :: WORKERS > 1 && waits[1 % WORKERS] -> waits[1 % WORKERS] = false \
    :: WORKERS > 2 && waits[2 % WORKERS] -> waits[2 % WORKERS] = false \
    :: else \
    fi

/* `Bell::ring` of worker x. */
#define RING(as, x) RING_##as(x)
#define RING_STEP(x) STEP(bell[x] = (bell[x] + 1) % 8); STEP(sleeps[x] = false)
/* One step, if it does not die between: who looks at the bell between them does not sleep either. */
#define RING_LIVING(x) atomic { bell[x] = (bell[x] + 1) % 8; sleeps[x] = false }

/* `wake_lowest`, for locals m and x. */
#define WAKE_LOWEST(as, label) \
    as(m = sleepers); \
label##_next: \
    as(if \
        :: m == 0 -> goto label##_over \
        :: else -> \
            x = LOWEST(m); \
            m = m & ~(1 << x); \
            if \
            :: sleepers & (1 << x) -> sleepers = sleepers & ~(1 << x) \
            :: else -> goto label##_next \
            fi \
        fi); \
    RING(as, x); \
label##_over: \
    atomic { m = 0; x = 0 }

/* `after_push`, for locals next, seen, m and x. */
#define AFTER_PUSH(as, label) \
    as(seen = wake_at); \
    as(if :: seen == 0 && sleepers == 0 -> goto label##_over2 :: else fi); \
    as(if \
        :: seen != 0 && next < seen -> goto label##_over2 \
        :: seen != 0 && next >= seen -> \
            if :: wake_at == seen -> wake_at = 0 :: else -> goto label##_over2 fi \
        :: seen == 0 -> \
            if :: spinner != 0 -> goto label##_over2 :: else -> goto label##_lowest fi \
        fi); \
    as(x = holder); \
    RING(as, x); \
    goto label##_over2; \
label##_lowest: \
    WAKE_LOWEST(as, label); \
label##_over2: \
    atomic { seen = 0; next = 0; x = 0 }

/* `Line::doubt`, for locals seen, m and x, and how often it looks left to chance. */
#ifdef NO_DOUBT                 /* mutation: a mark is believed */
#define DOUBT(as, label)
#else
#define DOUBT(as, label) \
    as(seen = spinner; if :: seen == 0 -> goto label##_over :: else fi); \
    as(if :: spinner != seen -> goto label##_over :: else fi); \
    as(if :: PENDING -> skip :: else -> goto label##_over fi); \
    as(if :: HOLDER == 0 -> skip :: else -> goto label##_over fi); \
    as(if :: spinner == seen -> spinner = 0 :: else -> goto label##_over fi); \
    WAKE_LOWEST(as, label); \
    seen = 0
#endif

/* Answers item i, which is ours. */
#ifdef LOOK_BEFORE_DONE         /* mutation: WAITING is looked up before DONE is written */
#define ANSWER(as, i) as(seen = word[i]); as(word[i] = DONE); \
    as(if :: seen & WAITING -> caller_sleeps[i] = false :: else fi; seen = 0)
#else
#define ANSWER(as, i) as(seen = word[i]; word[i] = DONE); \
    as(if :: seen & WAITING -> caller_sleeps[i] = false :: else fi; seen = 0)
#endif

/* Workers take what lies in the ring while the server holds the lock for attended; so it looks, as they do. */
#ifdef NO_WAKE_AFTER_EMPTYING   /* mutation */
#define LOOK_AFTER_EMPTYING(label)
#else
#define LOOK_AFTER_EMPTYING(label) \
    atomic { if :: PENDING -> skip :: else -> goto label##_over fi }; \
    WAKE_LOWEST(LIVING, label);
#endif

/* `answer_all_in_ring`, by the server. */
#define EMPTY(label) \
    atomic { HOLDER == 0 || dead[HOLDER] -> lock = SERVER_TOKEN | (lock & WAITERS) }; \
    do \
    :: atomic { PENDING -> i = item[head]; word[i] = (word[i] & WAITING) | CLAIMED | (SERVER_TOKEN << 3); head++; mine = mine | (1 << i) } \
    :: atomic { !PENDING -> break } \
    od; \
    atomic { seen = lock; lock = 0 }; \
    atomic { if :: seen & WAITERS -> WAKE_ONE_WAITER :: else fi; seen = 0 }; \
    LOOK_AFTER_EMPTYING(label) \
    do \
    :: atomic { mine != 0 -> i = LOWEST(mine); mine = mine & ~(1 << i) }; ANSWER(LIVING, i) \
    :: atomic { mine == 0 -> i = 0; break } \
    od

#ifdef SUBMIT
#define ITEM(t, round) ((t) * ROUNDS + (round))
#define SUBMITTED_DONE(t) (PHASE(word[ITEM(t, 0)]) == DONE && PHASE(word[ITEM(t, ROUNDS - 1)]) == DONE)
#else
#define ITEM(t, round) (t)
#endif

proctype Caller(byte t) {
    byte round, next, seen, m, x, i, mine;
    do
    :: round < ROUNDS ->
        atomic {
            i = ITEM(t, round);
            round++;
            word[i] = QUEUED | (SERVER_TOKEN << 3);
            item[tail] = i; tail++; next = tail; i = 0
        };
        AFTER_PUSH(LIVING, push);
        DOUBT(LIVING, doubt);
#ifndef NO_LOOK_FOR_DOWN        /* mutation */
        atomic { if :: down -> skip :: else -> goto wait fi };
        EMPTY(empty);
#endif
wait:
#ifdef SUBMIT
        atomic { if :: round < ROUNDS -> goto next_one :: else fi };
        atomic { SUBMITTED_DONE(t) -> goto next_one };
#else
        atomic { if :: PHASE(word[t]) == DONE -> goto got :: else fi };
        atomic { seen = word[t]; word[t] = word[t] | WAITING; if :: PHASE(seen) == DONE -> goto got :: else fi };
        /* The kernel compares before it lets one sleep. */
#ifdef NO_COMPARE               /* mutation */
        atomic { caller_sleeps[t] = true };
#else
        atomic { if :: word[t] == (seen | WAITING) -> caller_sleeps[t] = true :: else fi };
#endif
        atomic { !caller_sleeps[t]; seen = 0; goto wait };
got:
        atomic { word[t] = FREE; seen = 0 };
#endif
next_one: skip
    :: else -> break
    od;
    callers_done++
}

#ifdef MOVER
proctype Mover() {
    byte me = MOVER_TOKEN, next, seen, m, x;
    STEP(word[SENT] = QUEUED | (MOVER_TOKEN << 3));
    STEP(item[tail] = SENT; tail++; next = tail);
    AFTER_PUSH(STEP, push);
    DOUBT(STEP, doubt);
died:
    mover_over = true
}
#endif

#ifdef NOT_STICKY               /* mutation: who has slept takes the lock without WAITERS */
#define STICKY 0
#else
#define STICKY WAITERS
#endif
#ifdef NO_WINDOW_MARK           /* mutation: a push past the mark is not told from one before it */
#define MARK(h) (h + BATCH + 1)
#else
#define MARK(h) (h + BATCH)
#endif
#define ALIVE_HOLDER (HOLDER != 0 && HOLDER != me && !dead[HOLDER])

proctype Worker(byte w; byte me) {
    byte count, seen, m, x, h, k, i, mine;
    bool due, slept;
idle:
    STEP(if :: PENDING -> skip :: else -> goto spin fi);
    STEP(if :: ALIVE_HOLDER -> goto spin :: else -> goto collect fi);
spin:
#if WORKERS > 1 && !defined(NO_SPINNING)
    STEP(if :: spinner == 0 -> spinner = w + 1 :: else -> goto sleep fi);
#ifdef STOPPED
    if :: w == 0 -> goto end_stopped :: true fi;
#endif
    STEP(if :: PENDING -> k = 1 :: else -> k = 0 fi);
    STEP(if :: k == 1 && HOLDER != 0 -> k = 0 :: else fi);
#ifndef SPINNER_STAYS           /* mutation: the mark is not taken away */
    STEP(if :: spinner == w + 1 -> spinner = 0 :: else fi);
#endif
    atomic { if :: k == 1 -> k = 0; goto collect :: else fi };
#endif
sleep:
    STEP(count = bell[w]);
#ifdef LOOK_BEFORE_ANNOUNCING   /* mutation: the second look comes first */
    STEP(if :: PENDING -> goto idle :: else fi);
    STEP(sleepers = sleepers | (1 << w));
#else
    STEP(sleepers = sleepers | (1 << w));
    STEP(if :: PENDING -> skip :: else -> goto wait fi);
    STEP(if :: ALIVE_HOLDER -> skip :: else -> goto retract fi);
#endif
wait:
    STEP(if :: bell[w] == count -> sleeps[w] = true :: else fi);
end_asleep:
    atomic { if :: deaths > 0 -> sleeps[w] = false; DIE :: !sleeps[w] fi };
retract:
    STEP(count = 0; if :: sleepers & (1 << w) -> skip :: else -> goto idle fi);
    STEP(sleepers = sleepers & ~(1 << w); goto idle);

collect:
    STEP(if :: lock == 0 -> lock = me; goto look :: else fi);
lock_again:
    STEP(if
        :: HOLDER == 0 -> lock = me | (slept -> STICKY : WAITERS); goto look
        :: HOLDER != 0 && dead[HOLDER] -> lock = me | (slept -> STICKY : WAITERS); goto took_over
        :: else -> seen = lock | WAITERS; lock = seen
        fi);
    STEP(if :: lock == seen -> waits[w] = true :: else fi; seen = 0);
    atomic { if :: deaths > 0 -> waits[w] = false; DIE :: !waits[w] -> slept = true; goto lock_again fi };
took_over:
    STEP(wake_at = 0);
look:
    STEP(slept = false; h = head; k = (tail - head < BATCH -> tail - head : BATCH); if :: k == 0 -> goto unlock :: else fi);
#ifdef WINDOW
    if
    :: k < BATCH && !due ->
        STEP(count = bell[w]);
        STEP(holder = w);
        STEP(wake_at = MARK(h));
        STEP(if :: tail >= h + BATCH -> goto ended :: else fi);
        STEP(if :: bell[w] == count -> sleeps[w] = true :: else fi);
        atomic { if
            :: deaths > 0 -> sleeps[w] = false; DIE
            :: !sleeps[w]
            :: tail < h + BATCH -> sleeps[w] = false; due = true
            fi };
ended:
#ifndef WINDOW_STAYS            /* mutation: the mark is not taken away */
        STEP(wake_at = 0);
#endif
        atomic { count = 0; goto look }
    :: else
    fi;
#endif
    STEP(
        do
        :: head < h + k -> i = item[head];
            if
            :: PHASE(word[i]) == QUEUED ->
                word[i] = (word[i] & WAITING) | CLAIMED | (me << 3); mine = mine | (1 << i)
            :: else
            fi;
            head++
        :: else -> break
        od;
        i = 0);
unlock:
    STEP(due = false; h = 0; k = 0; seen = lock; assert((lock & 31) == me); lock = 0);
    STEP(if :: seen & WAITERS -> WAKE_ONE_WAITER :: else fi; seen = 0);
#if WORKERS > 1 && !defined(NO_WAKE_FOR_THE_REST)   /* mutation: what is left is left to chance */
    STEP(if :: PENDING -> skip :: else -> goto work fi);
    WAKE_LOWEST(STEP, rest);
#endif
work:
    atomic { if :: mine == 0 -> goto idle :: else -> i = LOWEST(mine); mine = mine & ~(1 << i) fi };
    assert(OWNER(word[i]) == me);
#ifdef SLOW
    !PENDING;
#endif
    ANSWER(STEP, i);
    atomic { i = 0; goto work };
died:
    atomic {
        count = 0; seen = 0; m = 0; x = 0; h = 0; k = 0; i = 0; mine = 0; due = false; slept = false;
        mended[me] ->
#ifdef DOWN
#ifdef TRIAL
        if :: lives == 0 -> goto trial :: else -> goto given_up fi
#else
        goto given_up
#endif
#endif
    };
#ifdef TRIAL
trial:
    /* Started again although the node is down; only when it is ready the mark goes. */
    down;
    atomic { lives = 1; me = new_token; new_token++; number[me] = w };
    atomic { down = false; goto idle };
#endif
    atomic { me = new_token; new_token++; number[me] = w; goto idle };
#ifdef STOPPED
end_stopped:
    false;
#endif
given_up:
    skip
}

#define TO_MEND(y) dead[y] && !mended[y]

proctype Repairer() {
    byte whom, n, i, next, seen, m, x, mine;
    bool pushed;
end_watch:
    if
    :: TO_MEND(1) -> whom = 1
    :: TO_MEND(2) -> whom = 2
    :: TO_MEND(3) -> whom = 3
    :: TO_MEND(5) -> whom = 5
#if DEATHS > 1
    :: TO_MEND(7) -> whom = 7
#endif
#if DEATHS > 2
    :: TO_MEND(8) -> whom = 8
#endif
    fi;
    if
    :: whom != MOVER_TOKEN ->
        n = number[whom];
#ifndef KEEP_THE_SLEEPER        /* mutation, and so on */
        atomic { sleepers = sleepers & ~(1 << n) };
#endif
#ifndef KEEP_THE_SPINNER
        atomic { if :: spinner == n + 1 -> spinner = 0 :: else fi };
#endif
#ifndef KEEP_THE_WINDOW
        atomic { if :: holder == n -> skip :: else -> goto free_of fi };
        atomic { wake_at = 0 };
#endif
free_of:
        atomic { if :: HOLDER == whom -> lock = 0 :: else -> goto answer fi };
        atomic { for (i : 0 .. WORKERS - 1) { waits[i] = false } };
answer:
        i = 0;
        do
        :: i < ITEMS ->
            if
            :: atomic { PHASE(word[i]) == CLAIMED && OWNER(word[i]) == whom -> word[i] = (word[i] & 7) | (SERVER_TOKEN << 3) };
                ANSWER(LIVING, i)
            :: else
            fi;
            i++
        :: else -> break
        od
    :: else ->
        atomic {
            pushed = PHASE(word[ITEMS - 1]) != QUEUED;
            for (i : 0 .. PUSHES - 1) { if :: i >= head && i < tail && item[i] == ITEMS - 1 -> pushed = true :: else fi }
        };
        if
        :: !pushed && OWNER(word[ITEMS - 1]) == MOVER_TOKEN ->
            atomic { item[tail] = ITEMS - 1; tail++; next = tail };
            AFTER_PUSH(LIVING, again)
        :: else
        fi
    fi;
#ifndef NO_WAKE_ALL             /* mutation */
    /* wake_everyone */
    atomic { for (i : 0 .. WORKERS - 1) { waits[i] = false } };
    i = 0;
    do
    :: i < WORKERS -> RING(LIVING, i); i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < ITEMS ->
        atomic { if :: word[i] & WAITING || PHASE(word[i]) == DONE -> caller_sleeps[i] = false :: else fi };
        i++
    :: else -> break
    od;
#endif
    atomic {
        i = 0; n = 0; mended[whom] = true; pushed = false;
#ifdef DOWN
        if
        :: whom != MOVER_TOKEN -> lives--; if :: lives == 0 -> goto give_up :: else fi
        :: else
        fi
#endif
    };
    atomic { whom = 0; goto end_watch };
give_up:
#ifdef EMPTY_BEFORE_THE_MARK    /* mutation */
    EMPTY(first);
    down = true;
#else
    down = true;
    EMPTY(first);
#endif
    atomic { whom = 0; goto end_watch }
}

proctype Judge() {
    byte i;
    timeout;
    assert(callers_done == CALLERS && mover_over);
    for (i : 0 .. ITEMS - 1) {
        assert(PHASE(word[i]) == FREE || PHASE(word[i]) == DONE)
    }
    assert(!PENDING && HOLDER == 0 && wake_at == 0);
#ifndef STOPPED
    assert(spinner == 0)
#endif
}

init {
    byte i;
    atomic {
        select (i : 0 .. DEATHS);
        deaths = i;
        for (i : 0 .. WORKERS - 1) {
            number[i + 1] = i;
            run Worker(i, i + 1)
        }
        for (i : 0 .. CALLERS - 1) {
            run Caller(i)
        }
#ifdef MOVER
        mover_over = false;
        run Mover();
#endif
        run Repairer();
        run Judge();
        i = 0
    }
}
