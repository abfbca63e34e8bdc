// The admin API. The admin key is in this variable and nowhere else: in no storage, no cookie and
// no address.

let adminKey = null;
let signedIn = false;

/** Aborts what the present session still reads. */
let session = new AbortController();

/** The API is mounted where the page is: at `/admin` for `/admin` and for `/admin/`. With the origin,
    because a path such as `//example.org/admin` alone would name another host (RFC 3986 §4.2). */
const BASE = location.origin + location.pathname.replace(/\/+$/, '');

/** A request that failed. `status` is 0 where no answer came. */
class Failure extends Error {
  constructor(status, method, problem = {}, headers = new Headers()) {
    super(problem.detail ?? `status ${status}`);
    this.status = status;
    this.method = method;
    this.code = problem.code;
    this.field = problem.field;
    this.detail = problem.detail;
    this.retryAfter = Number.parseInt(headers.get('Retry-After') ?? '', 10) || null;
    // RFC 6750 §3: the scopes that would be needed.
    this.scopes = /scope="([^"]*)"/.exec(headers.get('WWW-Authenticate') ?? '')?.[1].split(' ') ?? [];
  }
}

/** The JSON of the answer. As X-API-Key, so that `Authorization` is free for a proxy's own. */
async function call(method, path, body) {
  const headers = { 'X-API-Key': adminKey, Accept: 'application/json' };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const { signal } = session;
  let response;
  let answer;
  try {
    response = await fetch(BASE + path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: 'no-store',
      redirect: 'error',
      // The answer to a change may hold a secret, which must reach the screen even then.
      signal: method === 'GET' ? signal : undefined,
    });
    answer = await response.text();
  } catch {
    throw new Failure(0, method);
  }
  const date = Date.parse(response.headers.get('Date') ?? '');
  // It has whole seconds: closer than that the clocks count as equal.
  if (!Number.isNaN(date)) skew = Math.abs(date - Date.now()) > 2_000 ? date - Date.now() : 0;
  const json = parsed(answer);
  if (response.ok && json) return json;
  const failure = new Failure(response.status, method, json, response.headers);
  if (failure.status === 401 && signedIn && session.signal === signal) {
    signOut('Your key is no longer accepted. Sign in again.');
  }
  throw failure;
}

function parsed(text) {
  try {
    return JSON.parse(text) ?? undefined;
  } catch {
    return undefined;
  }
}

/** A failure in words. */
function explain(error) {
  if (!(error instanceof Failure)) throw error;
  const { status, code, detail, scopes, retryAfter, method } = error;
  const soon = retryAfter ? `Try again in ${plural(retryAfter, 'second')}.` : 'Try again later.';
  if (status === 0 && method === 'GET') return 'The server cannot be reached.';
  if (status === 0) return 'No answer came from the server, so it is not known whether the change was made. Look before you try again.';
  if (status === 401) return 'The server does not accept this key.';
  if (status === 403 && scopes.length) {
    const needed = `${scopes.length > 1 ? 'scopes' : 'scope'} ${scopes.join(', ')}`;
    const own = scopes.every((scope) => scope.startsWith('keys:'));
    return `Your key lacks the ${needed}${own ? '.' : ': it cannot hand out or change what it does not hold.'}`;
  }
  if (code === 'address_not_allowed') return 'Your key may not be used from your address.';
  if (status === 404) return 'There is no such key.';
  if (status === 429) return `Too many requests. ${soon}`;
  if (status === 503) return `The keys cannot be reached at present. ${soon}`;
  return detail ? sentence(detail) : `The server answered with status ${status}.`;
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');
}
