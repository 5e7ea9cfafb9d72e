/** Every bound of the gateway, each with the reason for its value. Times end in `Ms`, sizes in `Bytes`. */

/** Largest request body. A prompt that fills a window of 128 Ki tokens is below it. */
export const bodyBytesMax = 1 << 20;

/** Largest sum of a request's header names and values; far above what any client sends. */
export const headerBytesMax = 32 * 1024;

/** Longest session id, in bytes of UTF-8, as leanedge.v1 says. */
export const sessionIdBytesMax = 256;

/** Longest request id that is taken over from a client, as leanedge.worker.v1 says. */
export const requestIdCharsMax = 128;

/** Longest title, in characters. */
export const titleCharsMax = 200;

/** Start of the first user message that becomes a title, in characters: one line of a list. */
export const titleFromTextCharsMax = 60;

/** Text of one message, in bytes of UTF-8. */
export const messageBytesMax = 1 << 20;

/** New messages of a turn. */
export const turnMessagesMax = 64;

/** New messages of a session's first turn, which may import an earlier conversation. */
export const firstTurnMessagesMax = 256;

/** Messages of one request in OpenAI form, which always carries the whole history. */
export const chatMessagesMax = 1024;

/** Turns of a session: two segments each stay below the 16,384 segments of a log. */
export const turnsMax = 8_000;

/** Stop strings of a request. */
export const stopStringsMax = 8;

/** Bytes of one stop string. */
export const stopStringBytesMax = 256;

/** Answer length in tokens where a request names none. */
export const maxTokensDefault = 512;

/** Longest answer in bytes: a stored row must stay below the 2 MB that SQLite in a Durable Object allows. */
export const answerBytesMax = 1 << 20;

/** Token ids of one segment: four bytes each, so that a row stays below 2 MB. */
export const segmentIdsMax = 400_000;

/**
 * Text of a transcript that its session's object keeps in memory, in characters: some hundred sessions that are at work share an
 * isolate of 128 MB. A longer one is read from storage.
 */
export const keptCharsMax = 64 * 1024;

/** The same for the ids of a log, in bytes: 16 Ki tokens. */
export const keptIdsBytesMax = 64 * 1024;

/** Page sizes of lists. */
export const pageSizeMax = 1_000;
/** Sessions of a page where a request names no size. */
export const sessionsPageSizeDefault = 50;
/** Messages of a page where a request names no size. */
export const messagesPageSizeDefault = 100;
/** Text of one page of messages: a page ends early rather than exceed what one RPC message may carry. */
export const messagesPageBytesMax = 4 * 1024 * 1024;
/** Longest page token: one of the longest session id, all of whose characters JSON escapes, has some 730. */
export const pageTokenCharsMax = 1_024;

/**
 * How long what is shown of a running turn may wait to be stored (store-behind.ts). It bounds what is computed again when a
 * session's object is lost: a quarter of a second, less than the client takes to notice. Most short turns end before it, and
 * are stored once, with their end.
 */
export const storeBehindMs = 250;

/** Bytes of a `resume_hash`: the first half of a SHA-256. */
export const resumeHashBytes = 16;

/** Largest piece of text in one delta, in bytes; a replayed answer travels in such pieces. */
export const deltaBytesMax = 64 * 1024;

/** Silence after which a stream sends a heartbeat, as leanedge.v1 says. Below every proxy's idle limit. */
export const heartbeatIntervalMs = 10_000;

/**
 * Silence of a worker after which an attempt counts as lost whatever its pool says: three of its 5 s signs of life, with
 * slack.
 */
export const workerSilenceMsMax = 20_000;

/**
 * Silence of a worker after which an attempt asks the pool whether it still hears it. Workers give a sign of life every
 * 250 ms while they wait or read a prompt, and a token a step otherwise; but a slow CPU may take seconds for a step, in which
 * the process answers nobody. So as long as the pool itself waits for three heartbeats.
 */
export const workerDoubtMs = 6_000;
/** Time between two such questions; the answer to the first one is looked at when it is over. */
export const workerDoubtAskMs = 500;

/** Attempts at one turn on any workers, the first included; a fault that repeats must end. */
export const turnAttemptsMax = 5;

/** Workers that a session remembers to have left: more than one turn can try. */
export const leftWorkersMax = 8;
/** Times that a worker which a session has left is told so in vain. */
export const leftTriesMax = 3;

/** Pause before the second attempt; it doubles with each further one. */
export const attemptBackoffMs = 100;
/** Longest pause between two attempts. */
export const attemptBackoffMsMax = 2_000;

/** Requests of one attempt: the named prefix, what the worker says it has, everything. */
export const prefixRoundsMax = 3;

/** Turns of an isolate from which on workers are asked to tell tokens together: below, no event is too many. */
export const textIntervalTurnsMin = 8;
/** Turns that began longer ago do not count among those that run: the objects of some were lost. */
export const countedTurnMsMax = 10 * 60_000;
/**
 * Longest time between two events of tokens where the configuration names none: 20 pieces a second still read as a flow, and
 * reach no reader noticeably late. It takes 50 turns in one isolate.
 */
export const textIntervalMsMaxDefault = 50;

/** Alarm while a turn runs: an object that lost its memory notices after at most this. */
export const turnWatchMs = 3_000;

/** How long a running turn that lost its object waits for its client before it counts as left. */
export const orphanedTurnMs = 60_000;

/** Life of a binding after the last turn; a worker has dropped an idle cache by then in any case. */
export const bindingTtlMs = 30 * 60_000;

/** How long a change may wait on its way to the tenant's index: a session whose turns are short tells of several at once. */
export const indexPushMs = 200;
/** Entries that wait for one tenant's index together: a message of some 100 KB at most. */
export const indexBatchMax = 256;
/** Tenants for whom entries wait in one isolate; the longest waiting ones are told anew by their sessions' alarms. */
export const indexTenantsMax = 256;
/** Answers of indexes that an isolate keeps for sessions that did not ask yet; of what it drops, the index is told once more. */
export const indexAnswersMax = 4_096;

/** How much earlier than in memory a binding may expire in storage: a turn that only prolongs it writes no row for that. */
export const bindingSlackMs = 60_000;

/** First pause before a failed update of the tenant's index is tried again; it doubles up to the maximum. */
export const indexRetryMs = 1_000;
/** How long a session that shares its object stays in memory after it was last called for: as long as workerd keeps an object. */
export const sharedIdleMs = 10_000;
/** Sessions that one object keeps in memory: of more, those that nothing is under way of are forgotten sooner. */
export const sharedIdleMax = 512;
/** Turns for each millisecond that a commit of one of them waits for those of others (commit-group.ts): below, none does. */
export const commitGroupTurns = 8;
/** Longest that a commit waits for others, in milliseconds. */
export const commitGroupMsMax = 5;
/** How long an object's alarm waits for those of its sessions before it looks who is due next. */
export const sharedAlarmMs = 5_000;
/** Sessions of one object that one alarm is for, at most a few milliseconds' work; what else is due comes with the next, at once. */
export const sharedDueMax = 8;

/**
 * How late the tenant's index hears of a session whose object was lost between a turn's end and what it had to tell, a
 * second. No earlier: the alarm for it is stored with every session's first turn, and would come only to find that all was told.
 */
export const indexLostMs = 30_000;
/** Longest pause before a failed update of the tenant's index is tried again. */
export const indexRetryMsMax = 60_000;

/** How long the index remembers a deleted session, so that a late update cannot bring it back. */
export const tombstoneMs = 24 * 60 * 60_000;

/** Deadline of Release, Fork and GetStatus on a worker. */
export const workerUnaryTimeoutMs = 10_000;

/** Workers whose clients an isolate keeps; another one is made for a call. */
export const workerClientsMax = 1_024;

/** What a worker may send after an answer's last event, in bytes: the end of its stream is a few dozen. */
export const streamEndBytesMax = 64 * 1024;
/** How long that is waited for; then the connection is closed, and the next call opens one. */
export const streamEndMsMax = 5_000;

/** How long an isolate trusts what a worker said of its models. */
export const catalogueTtlMs = 60_000;
/** Workers that are asked what a model is before the gateway gives up. */
export const catalogueAsksMax = 3;

/** How long an isolate trusts what it looked up of a key; a revoked key opens nothing new after this. */
export const keyCacheTtlMs = 2_000;
/** Keys that an isolate remembers. */
export const keyCacheEntriesMax = 1_024;
/** Headers with keys that an isolate remembers the hashes of. */
export const keyHashesMax = 256;
/** Longest API key, in characters. */
export const apiKeyCharsMax = 256;
/**
 * Time between two looks of a session at the keys of its open streams and its running turn. With keyCacheTtlMs and two ways
 * to the keyring a revocation reaches them within 5 s.
 */
export const keyWatchMs = 1_000;
/** Keys that were made, ended ones that are still listed included. */
export const keysMax = 10_000;
/** How long a revoked or expired key is still listed. */
export const keyForgetMs = 30 * 24 * 60 * 60_000;
/** How exactly the last use of a key is known: a busy key costs one write in this time. */
export const keyUseMs = 60_000;
/** Largest limit of a key: tokens a minute of more GPUs than one gateway has. */
export const keyLimitMax = 1_000_000_000;
/** Keys of a page where a request names no size. */
export const keysPageSizeDefault = 100;

/** Bytes of text that are counted as one token before a worker has counted them; a turn's end sets it right. */
export const tokenBytesEstimate = 4;
/** How long a running turn counts against its key's limit without a sign of life; a lost object gives it back so. */
export const turnLeaseMs = 60_000;
/** Time between two such signs: three of them may be lost. */
export const turnLeaseRenewMs = 15_000;
/** Tries to tell a key's object what a turn took; after them the estimate stands. */
export const settleAttemptsMax = 4;
/** First pause before such a try is repeated; it doubles. */
export const settleBackoffMs = 250;
/** Looks at the limits that one call takes while others begin and withdraw its turn under it. */
export const admissionRoundsMax = 4;
/** Time after which a call comes again that found all turns of its key running, in milliseconds; their end is not known. */
export const turnsRetryAfterMs = 1_000;
/** How long the place of a session that is being made counts against its key's limit. */
export const sessionReserveMs = 60_000;

/** How long an HTTP answer waits for a worker, so that it can still name it, or the error, in its head. */
export const acceptWaitMs = 5_000;

/**
 * How long an answer that is not streamed may take before its body begins: short answers and replayed turns keep the
 * status that fits them, and a client that leaves a long one is noticed.
 */
export const wholePatienceMs = 500;

/** Forks of forks that one request in OpenAI form follows before it starts a session of its own. */
export const forkDepthMax = 16;

/** Times that a stream goes on through a session's object that restarted under it. */
export const objectRestartsMax = 3;

/** Interval at which a health watch looks at the state again. */
export const healthWatchMs = 5_000;

/** Longest deadline that a client may ask for. */
export const deadlineMsMax = 60 * 60_000;

/**
 * Memory of an embedded engine where the configuration names none: weights, cache and scratch together. An isolate has
 * 128 MB in all, of which the Worker's code and the requests in flight need the rest.
 */
export const engineMemoryBytesDefault = 88 * 1024 * 1024;

/** Sequences of an embedded engine, idle ones included; their logs take memory of the engine. */
export const engineSequencesMax = 64;

/**
 * Time from a session's last turn to when its cache is saved, where the configuration names none: most people who go on
 * do so earlier, and whoever lost the cache by then is served by replay.
 */
export const snapshotIdleMsDefault = 10_000;

/** Bytes of one session's snapshot; the embedded model's whole window without a plan takes half of it. */
export const snapshotBytesMax = 64 * 1024 * 1024;

/** Bytes of one row of a snapshot: a Durable Object's rows are below 2 MB, and leanedge.worker.v1 sends at most this. */
export const snapshotRowBytesMax = 512 * 1024;

/** Logs of fewer tokens are not saved: computing them again is as quick. */
export const snapshotTokensMin = 64;

/** Deadline for saving or restoring one snapshot; a turn that waits for it is replayed after that. */
export const snapshotTimeoutMs = 30_000;

/** Time between two heartbeats of a worker. */
export const heartbeatMs = 2_000;
/** Heartbeats that may be missing before a worker counts as not ready. */
export const heartbeatsMissedMax = 3;
/** How long a registered worker may stay pending; its address is asked with each of its heartbeats. */
export const workerPendingMsMax = 60_000;
/** Silence after which a registered worker counts as failed: longer than a restart of its machine. */
export const workerLostMs = 10 * 60_000;
/** How long a failed worker is still listed, for people who look for it. */
export const workerForgetMs = 60 * 60_000;
/** Workers of one pool. */
export const poolWorkersMax = 1_024;
/** Pools of a gateway. */
export const poolsMax = 16;
/** Models that one worker serves. */
export const workerModelsMax = 16;
/** Plans that one worker serves a model with; an engine knows no more (kPlansMax). */
export const workerPlansMax = 8;

/** Failures in a row that open a worker's circuit breaker: one may be chance, three are not. */
export const breakerFailuresMax = 3;
/** How long a breaker stays open at first. */
export const breakerOpenMs = 5_000;
/** Longest time that a breaker stays open. */
export const breakerOpenMsMax = 60_000;
/** How long the pool waits for the outcome of a trial; as long as an attempt may take to be accepted, with slack. */
export const breakerTrialMsMax = 30_000;

/** Requests that wait on one worker before it counts as full: they would wait longer than people do. */
export const placeQueuedMax = 16;
/** Share of free pages below which a worker that runs something counts as full. */
export const freePagesShareMin = 0.02;
/** Fullness of a worker over the mean of its pool from which its sessions move away, and down to which they go on doing so. */
export const crowdedFrom = 1.06;
/** See crowdedFrom. */
export const crowdedUntil = 1.03;
/** Fullness above the mean, as a share of the worker's pages, below which nothing moves: memory is not what is short. */
export const crowdedShareMin = 0.005;
/** Moves that one worker takes part in within a minute: a carried cache takes some of its bandwidth. */
export const movesPerMinuteMax = 12;
/** How long a turn waits for its pool to say whether its session moves: it is for room, and no answer is late for it. */
export const movePatienceMs = 300;
/** Oldest view that makes a session ask: a pool that does not answer is not asked for ever. */
export const crowdedViewMsMax = 60_000;
/** Size from which a session moves, of the average on its worker: a small one frees nothing. */
export const moveSizeShareMin = 0.2;
/** Size up to which a session moves, of what its longest context takes: a longer one is about to end. */
export const moveContextShareMax = 0.9;
/** Requests that wait in a pool for a worker with room. */
export const placeWaitersMax = 1_024;
/** How long a request waits in a pool for a worker with room. */
export const placeWaitMsMax = 10_000;
/** Time between two looks whether a worker has to be asked again for the sake of those who wait. */
export const placeAskMs = 500;
/** How long a gateway waits for a pool that does not answer, beyond the time that a request may wait in it. */
export const poolAnswerMsMax = 3_000;
/** Time after which a client that found all workers full should come again, in seconds. */
export const fullRetryAfterSeconds = 2;
/** How long it may take until a pool hears that workers which are not in doubt have served turns. */
export const poolServedMs = 500;
/** Workers, and reasons to go there, of which a pool hears at once. */
export const poolServedMax = 256;
/** Age from which an isolate renews its view of a pool. */
export const poolViewMs = 2_000;
/** Oldest view that places sessions while a pool does not answer. */
export const poolViewMsMax = 10 * 60_000;
/** Deadline of the pool's own questions to workers of the configuration; one that registers has workerUnaryTimeoutMs. */
export const workerProbeMsMax = 2_000;

/** How long counts stay in their isolate: what is lost when it ends. Short of what the platform grants work after an answer. */
export const metricsFlushMs = 5_000;
/** How long sums are not stored: what is lost when their object is evicted. */
export const metricsStoreMs = 10_000;
/** Series of the gateway's metrics: ten times what its labels can make, and less than a stored row holds. */
export const metricSeriesMax = 4_000;
