-- lua/mcp.lua and lua/challenge.lua: the client's part of MCP authorization, against scripted servers. What happens on
-- the wire is real/mcp_test's matter. Names in brackets: rows of the checklist of MCP's revisions.
local mcp, challenge, json, http = require "mcp", require "challenge", require "json", require "http"
local core = require "secret.core"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local URL = "https://mcp.test/mcp"
local PRM = "https://mcp.test/.well-known/oauth-protected-resource/mcp"
local AS = "https://auth.test/.well-known/oauth-authorization-server"

local function prm(more)
  local doc = { resource = URL, authorization_servers = { "https://auth.test" }, scopes_supported = { "a", "b" } }
  for k, v in pairs(more or {}) do doc[k] = v end
  return doc
end

local function as(more)
  local doc = {
    issuer = "https://auth.test", authorization_endpoint = "https://auth.test/auth", token_endpoint = "https://auth.test/token",
    registration_endpoint = "https://auth.test/reg", code_challenge_methods_supported = { "S256" },
    response_types_supported = { "code" }, token_endpoint_auth_methods_supported = { "none" },
  }
  for k, v in pairs(more or {}) do doc[k] = v ~= false and v or nil end
  return doc
end

-- pages: URL, or "METHOD URL", -> { status, document | nil, challenge }, a document, or a code as text.
local function world(pages)
  local w = { asked = {} }
  function w.request(spec)
    w.asked[#w.asked + 1] = spec.method .. " " .. spec.url
    w.last = spec
    local page = pages[spec.method .. " " .. spec.url] or pages[spec.url]
    if type(page) == "string" then return nil, page end
    if page == nil then return { status = 404 } end
    if page.status == nil then page = { status = 200, doc = page } end
    local text = page.text or page.doc and json.encode(page.doc)
    return { status = page.status, challenge = page.challenge, text = text, values = page.values }
  end
  w.env = { client = { request = w.request }, time = { now = function() return 0 end }, http = http, json = json }
  function w.had(text)
    for _, a in ipairs(w.asked) do
      if a == text then return true end
    end
    return false
  end
  return w
end

local function asks(more) return { status = 401, challenge = more or 'Bearer resource_metadata="' .. PRM .. '"' } end

local function fails(pages, code)
  local w = world(pages)
  local found, why = mcp.discover(w.env, URL)
  is(found, nil)
  is(why, code)
  return w
end

return {
  ["a challenge: several, quoted and not, in any order [C1]"] = function()
    local list = challenge.parse [[Basic realm="x, y", Bearer scope=one , resource_metadata = "https://a/b\"c" ,error=invalid_token, Negotiate]]
    is(#list, 3)
    is(list[1].realm, "x, y")
    is(list[2].resource_metadata, 'https://a/b"c')
    is(list[2].error, "invalid_token")
    is(list[3].scheme, "negotiate")
    is(challenge.bearer 'DPoP algs="ES256", bearer scope="a b"'.scope, "a b")
    for _, bad in ipairs { "", "Bearer scope=", 'Bearer scope="a', "Bearer scope=a b=c", "Bearer =x", "Bearer\1" } do
      is(challenge.parse(bad), nil)
    end
    is(challenge.bearer(nil), nil)
  end,
  ["--address is for the server's own host: its metadata may name any other"] = function()
    local function reached(env, url)
      local seen = {}
      local w = world {
        ["POST " .. URL] = asks(), [PRM] = prm(), [AS] = as(),
        ["https://auth.test/reg"] = { status = 201, values = { client_id = "c" } },
      }
      local request = w.request
      w.env.client.request = function(spec)
        local host = http.parse_url(spec.url).host
        seen[host] = (seen[host] or "") .. (spec.addresses and spec.addresses[1] or "guard") .. " "
        return request(spec)
      end
      for k, v in pairs(env) do w.env[k] = v end
      local found = mcp.discover(w.env, url or URL)
      assert(mcp.register(w.env, found, { redirect = "http://127.0.0.1:1/" }))
      return seen
    end
    local seen = reached { addresses = { "10.0.0.0/8" } }
    is(seen["mcp.test"], "10.0.0.0/8 10.0.0.0/8 ")
    is(seen["auth.test"], "guard guard ")
    seen = reached { addresses = { "10.0.0.0/8" }, auth_addresses = { "10.1.0.0/16" } }
    is(seen["mcp.test"], "10.0.0.0/8 10.0.0.0/8 ")
    is(seen["auth.test"], "10.1.0.0/16 10.1.0.0/16 ")
    -- At run time too: token requests, revocation.
    local config = require "config"
    local function at(mcp_part, host, own_host)
      local list = config.addresses_for({ rec = { hosts = { own_host or "mcp.test" }, addresses = { "10.0.0.0/8" }, mcp = mcp_part },
        addresses = { "10.0.0.0/8" } }, host)
      return list and list[1]
    end
    is(at({}, "mcp.test"), "10.0.0.0/8")
    is(at({}, "auth.test"), nil)
    is(at({}, "localhost"), nil)
    is(at({ auth_addresses = { "10.1.0.0/16" } }, "auth.test"), "10.1.0.0/16")
    is(at({ own = true }, "localhost", "127.0.0.1"), "127.0.0.0/8")
    is(at({ own = true }, "auth.test", "127.0.0.1"), nil)
    is(at(nil, "auth.test"), "10.0.0.0/8")
  end,
  ["the header's metadata address comes before the well-known ones [C2]"] = function()
    local there = "https://mcp.test/elsewhere"
    local w = world { ["POST " .. URL] = asks('Bearer resource_metadata="' .. there .. '"'), [there] = prm(), [PRM] = "unreachable", [AS] = as() }
    local found = assert(mcp.discover(w.env, URL))
    is(found.resource, URL)
    is(w.had("GET " .. PRM), false)
  end,
  ["without it the path's own comes first, and the root is not asked where that one is there [C2]"] = function()
    local root = "https://mcp.test/.well-known/oauth-protected-resource"
    local w = world { ["POST " .. URL] = asks "Bearer", [PRM] = prm(), [root] = prm { authorization_servers = { "https://evil.test" } }, [AS] = as() }
    is(assert(mcp.discover(w.env, URL)).issuer, "https://auth.test")
    is(w.had("GET " .. root), false)
    w = world { ["POST " .. URL] = asks "Bearer", [root] = prm(), [AS] = as() }
    is(assert(mcp.discover(w.env, URL)).issuer, "https://auth.test")
  end,
  ["metadata without what it must have, or about another server, is refused [C3]"] = function()
    local function with(doc) return { ["POST " .. URL] = asks(), [PRM] = doc, [AS] = as() } end
    fails(with { resource = URL }, "prm_malformed")
    fails(with { authorization_servers = { "https://auth.test" } }, "prm_malformed")
    fails(with { status = 200, text = "[" }, "prm_malformed")
    fails(with { status = 500 }, "unavailable")
    for _, other in ipairs { "https://other.test/mcp", "http://mcp.test/mcp", "https://mcp.test:444/mcp", "https://mcp.test/mc", "https://mcp.test/mcp/x", "mcp.test" } do
      fails(with(prm { resource = other }), "prm_other")
    end
    for _, same in ipairs { "https://mcp.test", "https://mcp.test/", "https://mcp.test/mcp" } do
      is(assert(mcp.discover(world(with(prm { resource = same })).env, URL)).resource, same)  -- verbatim [C14]
    end
    -- What the header names must be there.
    fails({ ["POST " .. URL] = asks(), [AS] = as() }, "prm_malformed")
  end,
  ["an issuer's metadata is looked for in order, never at the root for one with a path [C4]"] = function()
    local places = mcp.metadata_places(world({}).env, "https://auth.test/t1")
    is(table.concat(places, " "), "https://auth.test/.well-known/oauth-authorization-server/t1 "
      .. "https://auth.test/.well-known/openid-configuration/t1 https://auth.test/t1/.well-known/openid-configuration")
    places = mcp.metadata_places(world({}).env, "https://auth.test")
    is(table.concat(places, " "), AS .. " https://auth.test/.well-known/openid-configuration")
    local w = fails({ ["POST " .. URL] = asks(), [PRM] = prm { authorization_servers = { "https://auth.test/t1" } }, [AS] = as() }, "as_absent")
    is(w.had("GET " .. AS), false)
    -- 4xx goes on, 5xx ends it
    local openid = "https://auth.test/.well-known/openid-configuration"
    is(assert(mcp.discover(world { ["POST " .. URL] = asks(), [PRM] = prm(), [AS] = { status = 403 }, [openid] = as() }.env, URL)).issuer, "https://auth.test")
    fails({ ["POST " .. URL] = asks(), [PRM] = prm(), [AS] = { status = 503 }, [openid] = as() }, "unavailable")
  end,
  ["the document's issuer is the issuer, byte for byte [C5]"] = function()
    for _, other in ipairs { "https://auth.test/", "https://AUTH.test", "https://evil.test", "http://auth.test" } do
      fails({ ["POST " .. URL] = asks(), [PRM] = prm(), [AS] = as { issuer = other } }, "as_issuer")
    end
  end,
  ["no resource metadata: the server's own root, and no resource then; without one the paths of 2025-03-26 [C6]"] = function()
    local own = "https://mcp.test/.well-known/oauth-authorization-server"
    local doc = as { issuer = "https://mcp.test" }
    local found = assert(mcp.discover(world { ["POST " .. URL] = asks "Bearer", [own] = doc }.env, URL))
    is(found.resource, nil)
    is(mcp.fields(found, { id = "x", method = "none" }, "http://127.0.0.1:1/callback").resource, nil)
    for _, page in ipairs { { status = 404 }, { status = 200, text = "<html>" } } do     -- a page for whatever is not there is none
      local w = world { ["POST " .. URL] = asks "Bearer scope=x", [PRM] = page, [own] = page, ["POST https://mcp.test/register"] = { status = 201, values = { client_id = "c" } } }
      found = assert(mcp.discover(w.env, URL))
      is(found.guessed, true)
      local client = assert(mcp.register(w.env, found, { redirect = "http://127.0.0.1:1/callback" }))
      local f = mcp.fields(found, client, "http://127.0.0.1:1/callback")
      is(f.authorization_url .. " " .. f.token_url .. " " .. f.issuer .. " " .. f.auth_method, "https://mcp.test/authorize https://mcp.test/token https://mcp.test none")
      is(f.resource, nil)
      is(f.scopes[1], "x")
    end
    -- Nothing there, or a page: the server takes no OAuth. A word of RFC 7591 says that it does.
    for status, page in pairs { [404] = {}, [200] = {}, [403] = {}, [400] = { error = "invalid_redirect_uri" } } do
      local w = world { ["POST " .. URL] = { status = 401 }, ["POST https://mcp.test/register"] = { status = status, values = page } }
      local code = select(2, mcp.register(w.env, assert(mcp.discover(w.env, URL)), {}))
      is(code, status == 400 and "registration_refused" or "no_challenge")
    end
    local w = world { ["POST " .. URL] = { status = 401 }, ["POST https://mcp.test/register"] = { status = 201, values = { client_id = "c", client_secret = core.of "s" } } }
    is(mcp.register(w.env, assert(mcp.discover(w.env, URL)), {}).method, "post")      -- a secret that no method is named for
    is(mcp.register(w.env, assert(mcp.discover(w.env, URL)), { client_id = "mine", has_secret = true }).method, "post")
    fails({ ["POST " .. URL] = asks 'Basic realm="x"' }, "no_challenge")
    for _, other in ipairs { "https://evil.test", "https://mcp.test.evil.test", "http://mcp.test", "https://mcp.test:444/", "https://mcp.test?x", "https://a@mcp.test/", 5 } do
      fails({ ["POST " .. URL] = asks "Bearer", [own] = as { issuer = other } }, "as_issuer")
    end
    found = assert(mcp.discover(world { ["POST " .. URL] = asks "Bearer", [own] = as { issuer = "https://mcp.test/oauth" } }.env, URL))
    is(found.issuer, "https://mcp.test/oauth")           -- the root's word for its own origin
    is(found.guessed, nil)
  end,
  ["a server that begins without a token: the next call asks, else its metadata, else it is open"] = function()
    local function server(first, later, more)
      local n, pages = 0, { [PRM] = more, [AS] = as() }
      local w = world(pages)
      local request = w.request
      w.sent = {}
      w.env.client.request = function(spec)
        if spec.url == URL then
          n = n + 1
          w.sent[n] = spec
          if n == 1 then return first end
          return later(spec)
        end
        return request(spec)
      end
      return w
    end
    local function header(spec, name)
      for _, h in ipairs(spec.headers) do
        if h[1] == name then return h[2] end
      end
    end
    local w = server({ status = 200, session = "s-1" }, function(spec)
      return spec.body:find("tools/list", 1, true) and asks('Bearer scope="later"') or { status = 202 }
    end, prm())
    is(assert(mcp.discover(w.env, URL)).scopes[1], "later")
    is(#w.sent, 3)
    is(header(w.sent[2], "mcp-session-id"), "s-1")
    is(header(w.sent[1], "mcp-session-id"), nil)
    -- nothing asks: its metadata tells, and the session is ended
    w = server({ status = 200, session = "s-1" }, function() return { status = 200 } end, prm())
    is(assert(mcp.discover(w.env, URL)).scopes[1], "a")
    is(w.sent[#w.sent].method, "DELETE")
    -- no metadata, another's, or trouble: it is what it was
    for _, page in ipairs { { status = 404 }, prm { resource = "https://other.test/mcp" }, { status = 500 }, { status = 200, text = "<html>" } } do
      w = server({ status = 200, session = "bad\tsession" }, function() return { status = 200 } end, page)
      is(select(2, mcp.discover(w.env, URL)), "open")
      is(header(w.sent[2], "mcp-session-id"), nil)
    end
    -- The first 400 may be for the revision's name alone.
    w = server({ status = 400 }, function(spec) return header(spec, "mcp-protocol-version") and { status = 400 } or asks() end, prm())
    is(assert(mcp.discover(w.env, URL)).sse, false)
    is(#w.sent, 2)
  end,
  ["a failure names whom it is said of"] = function()
    local function said(pages, url)
      local w = world(pages)
      local found, code, detail, who = mcp.discover(w.env, url or URL)
      if found then _, code, detail, who = mcp.register(w.env, found, { redirect = "http://127.0.0.1:1/" }) end
      return mcp.sentence(code, detail, who)
    end
    local function with(doc, more)
      local pages = { ["POST " .. URL] = asks(), [PRM] = prm(), [AS] = doc }
      for k, v in pairs(more or {}) do pages[k] = v end
      return pages
    end
    is(said { ["POST " .. URL] = "timeout" }, "it did not answer in time")
    is(said { ["POST " .. URL] = "address_blocked" }, "its address is not public (--address CIDR would allow it)")
    is(said { ["POST " .. URL] = { status = 405 } }, "it refuses what a client begins with: it answers 404")
    is(said { ["POST " .. URL] = { status = 503 } }, "it is out of order: it answers 503")
    is(said { ["POST " .. URL] = asks(), [PRM] = "tls" }, "TLS with the place of its metadata, " .. PRM .. ", failed")
    is(said(with "unreachable"), "its authorization server, https://auth.test, cannot be reached")
    is(said(with "address_blocked"), "the address of its authorization server, https://auth.test, is not public (--auth-address CIDR would allow it)")
    is(said(with { status = 404 }), "its authorization server, https://auth.test, publishes no metadata")
    is(said(with { status = 200, text = "<html>" }), "the metadata of its authorization server, https://auth.test, is not what RFC 8414 asks for")
    is(said(with(as(), { ["POST https://auth.test/reg"] = { status = 400, values = { error = "invalid_redirect_uri" } } })),
      "its authorization server, https://auth.test, refused to register a client: invalid_redirect_uri")
    is(said(with(as { registration_endpoint = false })), "its authorization server, https://auth.test, registers nobody by itself")
    is(mcp.sentence("100%d", "x"), "it answers with 100%d: x")
  end,
  ["no PKCE with S256: refused [C7]"] = function()
    for _, methods in ipairs { false, { "plain" }, {}, "S256" } do
      fails({ ["POST " .. URL] = asks(), [PRM] = prm(), [AS] = as { code_challenge_methods_supported = methods } }, "no_pkce")
    end
  end,
  ["a client: the operator's, then the metadata document, then registration, then a question [C8, C9]"] = function()
    local w = world { ["POST https://auth.test/reg"] = { status = 201, values = { client_id = "dyn" } } }
    local found = { meta = as { client_id_metadata_document_supported = true }, scopes = {}, issuer = "https://auth.test" }
    w.env.loopback = false
    is(mcp.register(w.env, found, { client_id = "mine", client_metadata_url = "https://me.test/c" }).how, "given")
    local client = mcp.register(w.env, found, { client_metadata_url = "https://me.test/c" })
    is(client.id, "https://me.test/c")
    is(client.how, "metadata")
    found.meta = as()
    client = mcp.register(w.env, found, { client_metadata_url = "https://me.test/c", redirect = "http://127.0.0.1:9/callback" })
    is(client.id, "dyn")
    is(client.method, "none")
    found.meta = as { registration_endpoint = false }
    is(select(2, mcp.register(w.env, found, {})), "no_client")
  end,
  ["registration: what is sent, what is kept, what is refused [C10, C12]"] = function()
    local reg = "POST https://auth.test/reg"
    local answer = { status = 201, values = { client_id = "dyn", client_secret = core.of "s" } }
    local w = world { [reg] = answer }
    local found = { meta = as { token_endpoint_auth_methods_supported = false }, scopes = { "a", "offline_access" }, issuer = "https://auth.test" }
    local client = assert(mcp.register(w.env, found, { redirect = "http://127.0.0.1:9/callback" }))
    local sent = json.decode(w.last.body)
    is(sent.application_type, "native")
    is(sent.token_endpoint_auth_method, "client_secret_basic")     -- an absent list
    is(sent.redirect_uris[1], "http://127.0.0.1:9/callback")
    is(table.concat(sent.grant_types, " "), "authorization_code refresh_token")
    is(sent.scope, "a offline_access")
    is(client.method, "basic")
    assert(core.is(client.secret))
    answer.values = { client_id = "dyn", token_endpoint_auth_method = "client_secret_post", client_secret = core.of "s" }
    is(mcp.register(w.env, found, {}).method, "post")              -- the server's word
    answer.values = { client_id = "dyn" }
    is(select(2, mcp.register(w.env, found, {})), "auth_method")   -- basic without a secret
    for _, id in ipairs { "a\27[2Jb", "a\r\nb", "\195\169", "{}", ("x"):rep(5000) } do
      answer.values = { client_id = id, token_endpoint_auth_method = "none" }
      is(select(2, mcp.register(w.env, found, {})), "registration_refused")
    end
    answer.status, answer.values = 400, { error = "invalid_redirect_uri" }
    local _, code, detail = mcp.register(w.env, found, {})
    is(code, "registration_refused")
    is(detail, "invalid_redirect_uri")
    answer.values = { error = "<script>" }
    is(select(3, mcp.register(w.env, found, {})), "it answers 400")
    found.meta = as { token_endpoint_auth_methods_supported = { "tls_client_auth" } }
    is(select(2, mcp.register(w.env, found, {})), "auth_method")
  end,
  ["scopes: the challenge's, else all that the resource lists, else none; offline_access where the server has it [C16, C17]"] = function()
    local function scopes(hint, doc, meta)
      local found = assert(mcp.discover(world { ["POST " .. URL] = asks(hint), [PRM] = doc, [AS] = meta or as() }.env, URL))
      return table.concat(found.scopes, " ")
    end
    local head = 'Bearer resource_metadata="' .. PRM .. '"'
    is(scopes(head .. ', scope="x y"', prm()), "x y")
    is(scopes(head, prm()), "a b")
    is(scopes(head, { resource = URL, authorization_servers = { "https://auth.test" } }), "")
    is(scopes(head, prm(), as { scopes_supported = { "a", "offline_access" } }), "a b offline_access")
    is(scopes(head .. ", scope=x", prm(), as { scopes_supported = { "x" } }), "x")
  end,
  ["https everywhere; http is for this machine, and only its own servers may lead to it [C21]"] = function()
    local w = world {}
    is(select(2, mcp.discover(w.env, "http://mcp.test/mcp")), "not_url")
    is(#w.asked, 0)
    for _, inner in ipairs { "http://127.0.0.1:9/prm", "http://localhost/prm", "https://127.0.0.1/prm", "http://auth.test/prm" } do
      local v = fails({ ["POST " .. URL] = asks('Bearer resource_metadata="' .. inner .. '"'), [inner] = prm() }, "not_url")
      is(#v.asked, 1)
    end
    for _, inner in ipairs { "http://127.0.0.1:9", "http://auth.test", "https://localhost" } do
      fails({ ["POST " .. URL] = asks(), [PRM] = prm { authorization_servers = { inner } } }, "as_malformed")
    end
    for _, name in ipairs { "authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint" } do
      for _, bad in ipairs { "http://auth.test/x", "http://127.0.0.1/x", "javascript:alert(1)", "/x", 5 } do
        fails({ ["POST " .. URL] = asks(), [PRM] = prm(), [AS] = as { [name] = bad } }, "as_malformed")
      end
    end
    local here = "http://localhost:3000/mcp"
    local found = assert(mcp.discover(world { ["POST " .. here] = asks "Bearer",
      ["http://localhost:3000/.well-known/oauth-protected-resource/mcp"] = prm { resource = here }, [AS] = as() }.env, here))
    is(found.own, true)
  end,
  ["the answer decides: no sign-in, a redirect, trouble, SSE"] = function()
    fails({ ["POST " .. URL] = { status = 200 } }, "open")
    fails({ ["POST " .. URL] = { status = 302 } }, "redirect")
    fails({ ["POST " .. URL] = { status = 502 } }, "unavailable")
    fails({ ["POST " .. URL] = { status = 403 } }, "refused")
    fails({ ["POST " .. URL] = "timeout" }, "timeout")
    local w = world { ["POST " .. URL] = { status = 405 }, ["GET " .. URL] = asks(), [PRM] = prm(), [AS] = as() }
    is(assert(mcp.discover(w.env, URL)).sse, true)
  end,
  ["what becomes of it: the fields of a credential [C11, C13, C15]"] = function()
    local found = assert(mcp.discover(world { ["POST " .. URL] = asks(), [PRM] = prm(),
      [AS] = as { authorization_response_iss_parameter_supported = true, revocation_endpoint = "https://auth.test/revoke" } }.env, URL))
    local f = mcp.fields(found, { id = "c", method = "none" }, "http://127.0.0.1:1/callback")
    is(f.issuer, "https://auth.test")
    is(f.require_iss, true)
    is(f.resource[1], URL)
    is(f.revocation_url, "https://auth.test/revoke")
    is(f.auth_method, "none")
    is(f.redirect_uri, "http://127.0.0.1:1/callback")
    is(table.concat(f.scopes, " "), "a b")
  end,
}
