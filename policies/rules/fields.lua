--- What members of a JSON body or a form may, must or must not be.
--
--   sallyport rule add ours --type fields --host api.mail.test --method POST member=to only=*@acme.com
--   sallyport rule add ours --type fields --host api.mail.test member=personalizations.*.to.*.email only=*@acme.com must=true
--   sallyport rule add nofree --type fields --host api.acme.test member=coupon never=true
--
-- A member is named by its path: `*` stands for each element of a list, or each member of an object. `only` are patterns, of
-- which one has to fit each value (`*`: any text); case counts in them, not in names, since many servers fold those. A pattern with
-- an @ is one address: there `*` takes no @ and none of , ; : < > ( ) " \, so that no list of addresses fits (`*<*@acme.com>` is one
-- with a name), and a text with =? (an encoded word of RFC 2047, which may hide an address) fits none. Control bytes fit a pattern that is
-- `*` alone. A list of texts is judged element by element; any other value than a text, number or boolean fits nothing, nor does a part of
-- multipart, of which the name alone is read. Query parameters of that name are judged as a form's are. A body whose Content-Type says
-- neither JSON nor a form nor multipart, that has a coding, or a member twice, is refused: nobody knows what the server would read.
--
-- A body up to body-max is judged before any of it goes out. A longer one streams, and its last bytes are held back until it was judged.
local function marks(text) return (text:gsub('[^@,;:<>()"\\]', "")) end

-- What stands for each `*` has no mark where the text has those of the pattern alone.
local function one_fits(pattern, text)
  if pattern == "*" or not fits({ pattern }, text) or text:find("%c") then return pattern == "*" end
  return not pattern:find("@", 1, true) or marks(pattern) == marks(text) and not text:find("=?", 1, true)
end

local function judge(rule, found, where)
  if rule.never and found[1] ~= nil then return deny(("%s may not be given%s"):format(rule.member, where)) end
  for _, v in ipairs(found) do
    local text = (type(v) == "string" or type(v) == "number" or type(v) == "boolean") and tostring(v)
    local fitting = not rule.only[1]
    for _, pattern in ipairs(text and rule.only or {}) do fitting = fitting or one_fits(pattern, text) end
    if not fitting then
      return deny(("%s may be %s alone%s"):format(rule.member, table.concat(rule.only, " or "), where))
    end
  end
end

return {
  kind = "rule", api = 1, name = "fields", title = "What members of a body may be",
  fields = {
    { name = "member", required = true, help = "Its path: to, or message.*.to" },
    { name = "only", type = "list", default = {}, help = "Patterns, of which each value fits one: *@acme.com" },
    { name = "must", type = "boolean", default = false, help = "It has to be there" },
    { name = "never", type = "boolean", default = false, help = "It must not be there" },
  },
  body = {}, reader = { "json", "form", "multipart" },
  members = function(rule) return { rule.member } end,
  validate = function(rule)
    if #rule.member > 200 or ("." .. rule.member .. "."):find("..", 1, true) then return nil, "member", "is a path of names with dots between" end
    if rule.must and rule.never then return nil, "never", "and must cannot both be" end
    if not (rule.must or rule.never or rule.only[1]) then return nil, "only", "is missing, or must=true, or never=true: the rule says nothing" end
    return true
  end,
  on_request = function(req, ctx)
    local rule, in_query, found = ctx.rule, {}, {}
    if req.query_text ~= "" then
      local list = uri.parse_query(req.query_text)
      if not list then return deny("the query cannot be read") end
      for _, pair in ipairs(list) do
        if named(rule.member, pair[1]) then in_query[#in_query + 1] = pair[2] end
      end
    end
    local refused = judge(rule, in_query, " (in the query)")
    if refused then return refused end
    if req.has_body then
      local members, why = req.members()
      if not members then return deny(("the body cannot be read for %s: %s"):format(rule.member, why)) end
      found = members.values[rule.member] or found
    end
    if rule.must and found[1] == nil and in_query[1] == nil and req.has_body then return deny(("%s is missing"):format(rule.member)) end
    return judge(rule, found, "")
  end,
  examples = {
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"to":"a@acme.com"}' } },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"to":["a@acme.com","x@evil.test"]}' },
      want = "to may be *@acme.com alone" },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"To":"x@evil.test"}' }, want = true },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"to":"x@evil.test, a@acme.com"}' }, want = true },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"to":"<x@evil.test> a@acme.com"}' }, want = true },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"to":"x@evil.test\\u0000@acme.com"}' }, want = true },
    { rule = { member = "to", only = { "*<*@acme.com>" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"to":"Ada <a@acme.com>"}' } },
    { rule = { member = "to", only = { "*<*@acme.com>" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"to":"x@evil.test, Ada <a@acme.com>"}' }, want = true },
    { rule = { member = "to", only = { "*<*@acme.com>" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"to":"=?utf-8?q?x=40evil.test=2C?= <a@acme.com>"}' }, want = true },
    { rule = { member = "to", only = { "*" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"to":"x, y\\n@"}' } },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"to":"a@acme.com","to":"x@evil.test"}' }, want = true },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"to":{"email":"x"}}' }, want = true },
    { rule = { member = "p.*.to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"p":[{"to":"a@acme.com"},{"to":"b@acmeXcom"}]}' }, want = true },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/x-www-form-urlencoded" }, body = "to=a%40acme.com&from=x" } },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/x-www-form-urlencoded" }, body = "to=a%40acme.com&to[]=x%40evil.test" }, want = true },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/x-www-form-urlencoded" }, body = '{"to":"x@evil.test"}' }, want = true },
    { rule = { member = "m.to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/x-www-form-urlencoded" }, body = "[m][to]=x%40evil.test" }, want = true },
    { rule = { member = "m.to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/x-www-form-urlencoded" }, body = "m[to=x%40evil.test" }, want = true },
    { rule = { member = "m.to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/x-www-form-urlencoded" }, body = "m[x]y[to]=a&m['to']=x%40evil.test" }, want = true },
    { rule = { member = "m.a.to", only = { "*@acme.com" } }, req = { method = "POST", url = "https://api.example.com/?m[a]x[to]=x%40evil.test" }, want = true },
    { rule = { member = "user_id", only = { "me" } }, req = { method = "POST", url = "https://api.example.com/?user.id=you" }, want = true },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "multipart/related; boundary=b" }, body = '--b\r\nContent-Type: application/json\r\n\r\n{"to":"x@evil.test"}\r\n--b--\r\n' }, want = true },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "multipart/form-data; boundary=b" }, body = '--b\r\nContent-Disposition: form-data; name="payload_json"\r\nContent-Type: application/json\r\n\r\n{"to":"x@evil.test"}\r\n--b--\r\n' }, want = true },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", url = "https://api.example.com/?to=x%40evil.test", headers = { ["content-type"] = "application/json" }, body = "{}" },
      want = "to may be *@acme.com alone (in the query)" },
    { rule = { member = "to", must = true }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = "{}" }, want = "to is missing" },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/x-www-form-urlencoded" },
      body = '{"a":"&to=x%40evil.test&b=","to":"a@acme.com"}' },
      want = "the body cannot be read for to: it is sent as a form, and is JSON to servers that do not look" },
    { rule = { member = "to", only = { "*@acme.com" } }, req = { method = "POST", headers = { ["content-type"] = "application/x-www-form-urlencoded" },
      body = "to[0]=x%40evil.test" }, want = "to may be *@acme.com alone" },
    { rule = { member = "to", never = true }, req = { method = "POST", headers = { ["content-type"] = 'multipart/form-data; boundary=b' },
      body = '--b\r\nContent-Disposition: form-data; name="to"\r\n\r\nx\r\n--b--\r\n' }, want = "to may not be given" },
    { rule = { member = "to", must = true }, req = { method = "GET" } },
    { rule = { member = "coupon", never = true }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"COUPON":1}' }, want = "coupon may not be given" },
    { rule = { member = "coupon", never = true }, req = { method = "POST", headers = { ["content-type"] = "text/plain" }, body = "coupon" }, want = true },
  },
}
