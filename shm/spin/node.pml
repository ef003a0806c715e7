/*
 * Ring, word, reader lock and repair: one or two stages, death as a step before every access.
 *
 * The other checker of these algorithms is loom (shm/src/model): it runs the code itself, with its memory
 * orderings, over a few steps of two or three threads. Spin runs this model of it over whole lives, of all
 * participants at once and with several deaths, but takes every access to be sequentially consistent: it says
 * nothing about orderings. Where both apply, neither replaces the other.
 *
 * What is in it
 *   Client     one a task: fills, queues, pushes, waits, takes the outcome or cancels at any moment, and uses the
 *              id again, ROUNDS times. It does not die: clients live in the server's process, with whose death
 *              the segment ends.
 *   Worker     `collect::Loop`: look, claim, store head, let go of the abandoned, unlock, mark as begun, work, move
 *              on. Two compete at stage 0; one is at stage 1, if there is one.
 *   Repairer   the supervisor and `repair`: read, scan, act. It dies too, and the next one goes on.
 *   A worker that has died comes back with a new token once its death has been repaired.
 *
 * One step is one access to shared memory, before which its process may die, as long as DEATHS are left. A loop
 * of load and compare-and-swap whose decision rests on the value it has loaded is one step: the one that
 * succeeds. A death is proven as soon as it has happened: who asks earlier is one who came earlier.
 * Waiting is blocking here; that no wake is lost is the model in doorbell.pml.
 *
 * Laps have 2 bits and begin where they soon wrap; generations have 2 bits.
 *
 * What is checked
 *   - nobody is stuck: in the end all clients are done, rings empty, tasks and locks free (Judge);
 *   - every request ends once: as a value that each stage has worked on, in order, or as an error, and without
 *     deaths never as an error;
 *   - user code runs at most once for it at a stage under FAIL, at most LIMIT + 1 times under RETRY;
 *   - what user code is given is its stage's input, and whole;
 *   - only its owner acts on a phase; an id is in one ring at most, and once; no cell is written over before
 *     it was drained; no position is skipped.
 *
 * -D options: TASKS 1..3, ROUNDS (of task 0; OTHERS of the others), DEATHS, STAGES 1..2, RETRY (else FAIL), BATCH, IMMORTAL_REPAIRER.
 * -DNO_... and others with a comment "mutation" take a line of the protocol away: each must be found.
 */

#ifndef TASKS
#define TASKS 1
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef OTHERS
#define OTHERS ROUNDS
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef STAGES
#define STAGES 2
#endif
#ifndef BATCH
#define BATCH 2
#endif
#ifdef RETRY
#define LIMIT 1                 /* attempts after the first */
#else
#define LIMIT 0
#endif

/* A ring has the next power of two above the number of tasks. */
#if TASKS == 1
#define CELLS 2
#else
#define CELLS 4
#endif
#define LAPS 4
#define START (CELLS * 2 + CELLS - 1)   /* the last position but one lap before laps wrap */

#define LAP_OF(p)  (((p) / CELLS + 1) % LAPS)
#define BEFORE(l)  (((l) + LAPS - 1) % LAPS)
#define CELL(r, p) cell[(r) * CELLS + (p) % CELLS]
#define FULL(p, id) (LAP_OF(p) * 4 + (id))
#define LAP(c)     ((c) / 4)
#define ID(c)      ((c) % 4)
#define PUBLISHED(r, p) (LAP(CELL(r, p)) == LAP_OF(p))

/* word: owner (4) | phase (3) | ERROR | CANCELLED | attempt (2) | generation (2) */
#define FREE    0
#define QUEUED  1
#define CLAIMED 2
#define DONE    3
#define CANCELLED 16
#define ERROR     32
#define GENERATION(w) ((w) & 3)
#define ATTEMPT(w) (((w) >> 2) & 3)
#define PHASE(w) (((w) >> 6) & 7)
#define OWNER(w) ((w) >> 9)
#define MOVED(w, phase, owner) (((w) & 63) | ((phase) << 6) | ((owner) << 9))
#define IS(t, phase, owner) (PHASE(word[t]) == (phase) && OWNER(word[t]) == (owner))
#define FREED(w) (((w) + 1) & 3)
#define UNTRIED(w) ((w) & ~12)   /* no attempts: they are of one node */

/* Tokens: the server's, those of workers and the repairer, and new ones after deaths. */
#define NOBODY   0
#define CLIENT   1
#define REPAIRER 5
#define FIRST_NEW 6
#define TOKENS   (FIRST_NEW + DEATHS)

/* at: the node, whether user code has begun there, and whether it has been queued there before. */
#define BEGUN 2
#define AGAIN 4
#define NODE_OF(a) ((a) & 1)

/* What lies in a payload. */
#define TORN   6
#define RECORD 7

short word[TASKS];
byte at[TASKS];
bool outcome[TASKS];            /* RETRY: committed with the payload, in one store */
byte payload[TASKS];            /* how many stages have worked on it; or TORN, or an error RECORD */

byte cell[STAGES * CELLS];
byte tail[STAGES], head[STAGES];
byte lock[STAGES];

bool dead[TOKENS], mended[TOKENS];
byte new_token = FIRST_NEW;
byte deaths = DEATHS;

/* Not in memory: what really happened. */
byte runs[TASKS * STAGES];      /* of user code */
byte in_rings[TASKS];
byte pushes[STAGES];
byte clients_done;

#define LOWEST(set) ((set) & 1 -> 0 : ((set) & 2 -> 1 : 2))
#define WITHOUT(set, id) ((set) & ~(1 << (id)))
#define SIZE(set) (((set) & 1) + (((set) >> 1) & 1) + (((set) >> 2) & 1))

#define DIE deaths--; dead[me] = true; goto died
/* One access, or death before it. */
#define STEP(access) atomic { if :: deaths > 0 -> DIE :: true -> access fi }
#define LIVING(access) atomic { access }

/* Publishes the ids of the set `ids` in ring r, in their order. `as` is STEP or LIVING, `last` ONE or MANY. */
#ifdef NO_LAP_CHECK             /* mutation: whatever is not of this lap is taken for free */
#define IS_FREE(c, p) (LAP(c) != LAP_OF(p))
#else
#define IS_FREE(c, p) (LAP(c) == BEFORE(LAP_OF(p)))
#endif
#ifdef BLIND_PUBLISH            /* mutation: a store in place of the compare-and-swap */
#define STILL(c, p, r) true
#else
#define STILL(c, p, r) (CELL(r, p) == (c))
#endif
#ifdef NO_HELP                  /* mutation: who finds a cell taken leaves `tail` where it is */
#define HELP(r, p) skip
#else
#define HELP(r, p) ONE(r, p)
#endif

/* The last step: of `push`, of `push_many`. */
#define ONE(r, p)  if :: tail[r] == p -> tail[r] = p + 1 :: else fi
#define MANY(r, p) if :: tail[r] <= p -> tail[r] = p + 1 :: else fi
#define PUSH(as, label, r, last) \
    as(p = tail[r]); \
label##_try: \
    as(c = CELL(r, p); \
        if \
        :: IS_FREE(c, p) -> goto label##_swap \
        :: !IS_FREE(c, p) && LAP(c) == LAP_OF(p) -> goto label##_help \
        :: else -> goto label##_behind \
        fi); \
label##_swap: \
    as(if \
        :: STILL(c, p, r) -> \
            assert(p < head[r] + CELLS);            /* what was there has been drained */ \
            assert(in_rings[LOWEST(ids)] == 0); \
            in_rings[LOWEST(ids)]++; \
            pushes[r]++; \
            CELL(r, p) = FULL(p, LOWEST(ids)); \
            ids = WITHOUT(ids, LOWEST(ids)); \
            goto label##_published \
        :: else -> goto label##_help \
        fi); \
label##_behind: \
    as(assert(tail[r] > p); p = tail[r]; goto label##_try);  /* else Overrun */ \
label##_help: \
    as(HELP(r, p); p++; goto label##_try); \
label##_published: \
    atomic { if :: ids != 0 -> p++; goto label##_try :: else fi }; \
    as(last(r, p); p = 0; c = 0)

/* A stage's outcome is the next one's input: whoever queues a task forgets that it was one, once `at` has left. */
#if defined(RETRY) && !defined(OLD_OUTCOME)     /* mutation: it stays */
#define FORGET(as, t) as(outcome[t] = false)
#else
#define FORGET(as, t) skip
#endif

proctype Client(byte t) {
    byte p, c, ids, round;
    do
    :: round < (t == 0 -> ROUNDS : OTHERS) ->
        /* FREE → FILLING → QUEUED: nobody else looks at it between. */
        atomic {
            PHASE(word[t]) == FREE ->
            word[t] = MOVED(GENERATION(word[t]), QUEUED, CLIENT);
            at[t] = 0; outcome[t] = false; payload[t] = 0;
            runs[t * STAGES] = 0;
#if STAGES == 2
            runs[t * STAGES + 1] = 0;
#endif
            ids = 1 << t;
            round++
        };
        PUSH(LIVING, push, 0, ONE);
        if
        :: atomic {
            PHASE(word[t]) == DONE ->
            assert(OWNER(word[t]) == CLIENT);
            if
            :: word[t] & ERROR -> assert(deaths < DEATHS && payload[t] == RECORD)
            :: else -> assert(payload[t] == STAGES && runs[t * STAGES] > 0 && runs[t * STAGES + STAGES - 1] > 0)
            fi
           };
           atomic { word[t] = FREED(word[t]) }
        :: atomic {
            word[t] = word[t] | CANCELLED ->
            if
            :: PHASE(word[t]) == DONE -> goto free
#ifdef BOTH_FREE                /* mutation: the caller does not look whether the outcome was there */
            :: PHASE(word[t]) != DONE -> goto free
#endif
            :: else -> goto gone
            fi
           };
free:      atomic { assert(PHASE(word[t]) == DONE); word[t] = FREED(word[t]) };
gone:      skip
        fi
    :: else -> break
    od;
    clients_done++
}

#ifdef NO_CLAIM_OF_THE_DEAD     /* mutation: what a dead reader has claimed is left to it */
#define MAY_CLAIM(t) (PHASE(word[t]) == QUEUED)
#else
#define MAY_CLAIM(t) (PHASE(word[t]) == QUEUED || \
    PHASE(word[t]) == CLAIMED && OWNER(word[t]) != me && dead[OWNER(word[t])])
#endif
#ifdef ROB_THE_LIVING           /* mutation: a holder is taken for dead without proof */
#define MAY_LOCK(n) true
#else
#define MAY_LOCK(n) (lock[n] == NOBODY || dead[lock[n]])
#endif

#define CLAIM(t) \
    if \
    :: MAY_CLAIM(t) -> \
        word[t] = MOVED(word[t], CLAIMED, me); \
        if :: word[t] & CANCELLED -> gone = gone | (1 << (t)) :: else -> mine = mine | (1 << (t)) fi \
    :: else \
    fi
#define STORE_HEAD(n) \
    head[n] = h + k; \
    if :: k > 0 -> in_rings[s0]-- :: else fi; \
    if :: k > 1 -> in_rings[s1]-- :: else fi
/* → FREE, by whom it belongs to. */
#define RELEASE(t) assert(IS(t, CLAIMED, me)); word[t] = FREED(word[t])

#ifdef HEAD_BEFORE_CLAIMS       /* mutation */
#define FIRST_STORE(n) STEP(STORE_HEAD(n))
#define THEN_STORE(n) skip
#else
#define FIRST_STORE(n) skip
#define THEN_STORE(n) STEP(STORE_HEAD(n))
#endif
#ifdef FREE_BEFORE_HEAD         /* mutation: an abandoned task is freed where it is claimed */
#define LET_GO(t) STEP(if :: gone & (1 << (t)) -> RELEASE(t); gone = WITHOUT(gone, t) :: else fi)
#else
#define LET_GO(t) skip
#endif

#ifdef NEVER_BEGUN              /* mutation: nothing says that user code has begun */
#define MARK_BEGUN(t, n) skip
#else
#define MARK_BEGUN(t, n) at[t] = n | BEGUN
#endif

proctype Worker(byte n; byte me) {
    byte h, k, s0, s1, t, p, c, ids, mine, gone, todo;
end_idle:
    PUBLISHED(n, head[n]);
    atomic {
        MAY_LOCK(n) ->
        if :: deaths > 0 -> DIE :: true -> lock[n] = me; h = head[n] fi
    };
look:
    STEP(if
        :: SIZE(mine) + k < BATCH && PUBLISHED(n, h + k) ->
            if :: k == 0 -> s0 = ID(CELL(n, h)) :: else -> s1 = ID(CELL(n, h + 1)) fi;
            k++;
            goto look
        :: else ->
            if :: k == 0 -> goto unlock :: else fi
        fi);
    FIRST_STORE(n);
    STEP(CLAIM(s0));
    LET_GO(s0);
    if
    :: k == 2 -> STEP(CLAIM(s1)); LET_GO(s1)
    :: else
    fi;
    THEN_STORE(n);
    atomic { h = h + k; k = 0; s0 = 0; s1 = 0; if :: gone == 0 -> goto unlock :: else fi };
discard:
    STEP(RELEASE(LOWEST(gone)); gone = WITHOUT(gone, LOWEST(gone)); if :: gone != 0 -> goto discard :: else -> goto look fi);
unlock:
    STEP(assert(lock[n] == me); lock[n] = NOBODY; h = 0; if :: mine == 0 -> goto end_idle :: else -> todo = mine fi);
begin:
    STEP(t = LOWEST(todo); assert(IS(t, CLAIMED, me)); MARK_BEGUN(t, n); todo = WITHOUT(todo, t);
        if :: todo != 0 -> goto begin :: else fi);
work:
    atomic { t = LOWEST(mine); mine = WITHOUT(mine, t) };
    STEP(assert(IS(t, CLAIMED, me)); assert(payload[t] == n);
        runs[t * STAGES + n]++; assert(runs[t * STAGES + n] <= LIMIT + 1));
    assert(OWNER(word[t]) == me);
#if defined(RETRY) && !defined(OVER_THE_INPUT)
    STEP(payload[t] = n + 1; outcome[t] = true);            /* the outcome lies beside the input; one store */
#else                           /* with RETRY a mutation */
    STEP(payload[t] = TORN);
    STEP(payload[t] = n + 1);
#endif
#if STAGES == 2
    if
    :: n == 0 ->
        /* → the next node: where it is says that it has left, before anything of this stage is forgotten. */
#ifdef FORGET_BEFORE_LEAVING    /* mutation */
        STEP(outcome[t] = false);
        STEP(at[t] = 1);
#else
        STEP(at[t] = 1);
        FORGET(STEP, t);
#endif
        STEP(assert(IS(t, CLAIMED, me)); word[t] = MOVED(UNTRIED(word[t]), QUEUED, me); ids = ids | (1 << t);
            if :: mine != 0 -> goto work :: else fi);
        PUSH(STEP, forward, 1, MANY);
        goto end_idle
    :: else
    fi;
#endif
    STEP(assert(IS(t, CLAIMED, me));
        if
        :: word[t] & CANCELLED -> goto release
        :: else -> word[t] = MOVED(word[t], DONE, CLIENT); goto next
        fi);
release:
    STEP(RELEASE(t));
next:
    atomic { t = 0; if :: mine != 0 -> goto work :: else -> goto end_idle fi };
died:
    atomic {
        h = 0; k = 0; s0 = 0; s1 = 0; t = 0; p = 0; c = 0; ids = 0; mine = 0; gone = 0; todo = 0;
        mended[me] -> me = new_token; new_token++;
        goto end_idle
    }
}

#ifdef IMMORTAL_REPAIRER
#define STEP_R LIVING
#else
#define STEP_R STEP
#endif
#ifdef TAKE_FROM_ANYBODY        /* mutation: whose it is now is not compared */
#define MAY_TAKE(t) (PHASE(word[t]) == CLAIMED)
#else
#define MAY_TAKE(t) IS(t, CLAIMED, whom)
#endif
#define SPENT(t) (ATTEMPT(word[t]) >= LIMIT)
#ifdef RUN_AGAIN                /* mutation: a committed outcome is not looked for */
#define HAS_OUTCOME(t) false
#else
#define HAS_OUTCOME(t) outcome[t]
#endif
#define TO_MEND(x) dead[x] && !mended[x]

proctype Repairer() {
    byte me = REPAIRER, whom, r, start, done, t, p, c, ids, queued, claimed, seen;
#ifdef SCAN_BEFORE_DEATH        /* mutation: what is in rings is looked up before the death */
    goto scan;
#endif
end_watch:
    /* Two deaths: in either order. */
    if
    :: TO_MEND(2) -> whom = 2
    :: TO_MEND(3) -> whom = 3
#if STAGES == 2
    :: TO_MEND(4) -> whom = 4
#endif
#ifndef IMMORTAL_REPAIRER
    :: TO_MEND(5) -> whom = 5
#endif
#if DEATHS > 1
    :: TO_MEND(6) -> whom = 6
#endif
#if DEATHS > 2
    :: TO_MEND(7) -> whom = 7
#endif
    fi;
#ifndef NO_FREE_OF              /* mutation: a dead holder keeps the lock until somebody wants it */
free_of:
    STEP_R(if :: lock[r] == whom -> lock[r] = NOBODY :: else fi;
        r++; if :: r < STAGES -> goto free_of :: else -> r = 0 fi);
#endif
#ifdef SCAN_FIRST               /* no mutation: this holds too, since a dead token stays where it is or is gone */
    goto scan;
#endif
read:
    STEP_R(if
        :: IS(t, QUEUED, whom) -> queued = queued | (1 << t)
        :: IS(t, CLAIMED, whom) -> claimed = claimed | (1 << t)
        :: else
        fi;
        t++; if :: t < TASKS -> goto read :: else -> t = 0 fi);
#if defined(SCAN_BEFORE_DEATH) || defined(SCAN_FIRST)
    goto act;
#endif
scan:
    STEP_R(start = head[r]; done = 0);
look:
    STEP_R(if
        :: PUBLISHED(r, start + done) ->
            seen = seen | (1 << ID(CELL(r, start + done)));
            done++;
            if :: done < CELLS -> goto look :: else -> goto scanned fi
        :: else
        fi);
    STEP_R(if
        :: head[r] - start > done -> done = head[r] - start; if :: done < CELLS -> goto look :: else fi
        :: else
        fi);
scanned:
    atomic { done = 0; start = 0; r++; if :: r < STAGES -> goto scan :: else -> r = 0 fi };
#ifdef SCAN_BEFORE_DEATH
    goto end_watch;
#endif
#ifdef SCAN_FIRST
    goto read;
#endif
act:
    atomic {
#ifdef NO_SCAN                  /* mutation: what was in a ring is not asked */
        seen = 0;
#endif
        queued = queued & ~seen;
        claimed = claimed & ~seen;
        seen = 0
    };
act_next:
    atomic {
        if
        :: queued != 0 -> t = LOWEST(queued); queued = WITHOUT(queued, t); goto adopt
        :: queued == 0 && claimed != 0 -> t = LOWEST(claimed); claimed = WITHOUT(claimed, t); goto take_over
        :: else -> goto over
        fi
    };
adopt:
#ifdef NO_ADOPTION              /* mutation: what a dead mover has not pushed stays so */
    goto act_next;
#endif
    STEP_R(if
        :: IS(t, QUEUED, whom) -> word[t] = MOVED(word[t], QUEUED, me); ids = 1 << t; r = NODE_OF(at[t])
        :: else -> goto act_next
        fi);
push:
    PUSH(STEP_R, again, r, ONE);
    atomic { r = 0; t = 0; goto act_next };
take_over:
    STEP_R(if
        :: MAY_TAKE(t) -> word[t] = MOVED(word[t], CLAIMED, me)
        :: else -> goto act_next
        fi);
    STEP_R(if
        :: !(at[t] & BEGUN) -> goto queue_again
        :: at[t] & BEGUN && HAS_OUTCOME(t) -> goto roll_forward
        :: at[t] & BEGUN && !HAS_OUTCOME(t) && !SPENT(t) -> goto try_again
        :: else -> goto fail
        fi);
try_again:
    /* Counted before it looks as if nobody had begun it: who dies here has it counted twice, never not at all. */
#ifdef COUNT_LATE               /* mutation: counted as it is queued again */
    STEP_R(at[t] = NODE_OF(at[t]) | AGAIN);
    STEP_R(assert(IS(t, CLAIMED, me)); word[t] = MOVED(word[t] + 4, QUEUED, me); ids = 1 << t; r = NODE_OF(at[t]); goto push);
#else
    STEP_R(assert(IS(t, CLAIMED, me)); word[t] = word[t] + 4);
#endif
queue_again:
    /* One that was on its way here has the attempts of the stage before. */
    atomic { done = (at[t] & (BEGUN | AGAIN) -> 0 : 12) };
    STEP_R(at[t] = NODE_OF(at[t]) | AGAIN);
    FORGET(STEP_R, t);
    STEP_R(assert(IS(t, CLAIMED, me)); word[t] = MOVED(word[t] & ~done, QUEUED, me); done = 0; ids = 1 << t; r = NODE_OF(at[t]); goto push);
roll_forward:
    atomic { if :: NODE_OF(at[t]) == STAGES - 1 -> goto finish :: else fi };
    STEP_R(at[t] = 1);
    FORGET(STEP_R, t);
    STEP_R(assert(IS(t, CLAIMED, me)); word[t] = MOVED(UNTRIED(word[t]), QUEUED, me); ids = 1 << t; r = 1; goto push);
fail:
    STEP_R(payload[t] = RECORD);
    STEP_R(assert(IS(t, CLAIMED, me));
        if
        :: word[t] & CANCELLED -> goto release
        :: else -> word[t] = MOVED(word[t], DONE, CLIENT) | ERROR; goto act_next
        fi);
finish:
    STEP_R(assert(IS(t, CLAIMED, me));
        if
        :: word[t] & CANCELLED -> goto release
        :: else -> word[t] = MOVED(word[t], DONE, CLIENT); goto act_next
        fi);
release:
    STEP_R(RELEASE(t); goto act_next);
over:
    atomic { mended[whom] = true; whom = 0; t = 0; goto end_watch };
died:
    atomic {
        whom = 0; r = 0; start = 0; done = 0; t = 0; p = 0; c = 0; ids = 0; queued = 0; claimed = 0; seen = 0;
        me = new_token; new_token++;
        goto end_watch
    }
}

proctype Judge() {
    byte i;
    timeout;
    assert(clients_done == TASKS);
    for (i : 0 .. TASKS - 1) {
        assert(PHASE(word[i]) == FREE);
        assert(in_rings[i] == 0)
    }
    for (i : 0 .. STAGES - 1) {
        assert(lock[i] == NOBODY);
        assert(head[i] == START + pushes[i] && !PUBLISHED(i, head[i]))
    }
}

init {
    byte r, i;
    atomic {
        for (r : 0 .. STAGES - 1) {
            tail[r] = START; head[r] = START;
            for (i : 0 .. CELLS - 1) {
                cell[r * CELLS + i] = ((i < START % CELLS) -> 3 : 2) * 4
            }
        }
        for (i : 0 .. TASKS - 1) {
            run Client(i)
        }
        run Worker(0, 2);
        run Worker(0, 3);
#if STAGES == 2
        run Worker(1, 4);
#endif
        run Repairer();
        run Judge();
        i = 0; r = 0
    }
}
