--- A method in a body, where the credential or domain entry is kept to GET and POST: a form's is cut out, one in JSON or
-- multipart is refused, and so is what cannot be looked into.
local FORM, JSON = "Content-Type: application/x-www-form-urlencoded", "Content-Type: application/json"
local MULTI = "Content-Type: multipart/form-data; boundary=xYz"
local cases = {}

local function post(name, fields, body, expect, host, method)
  cases[#cases + 1] = { name = name, host = host or "post.test", expect = expect,
    send = ("%s /v1 HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n%s"):format(method or "POST", host or "post.test",
      fields ~= "" and fields .. "\r\n" or "", #body, body) }
end
local function passes(name, fields, body, host, method)
  post(name .. " passes", fields, body, { status = 200, upstream = { body = body } }, host, method)
end
local function refused(name, fields, body, host)
  post(name .. " is refused", fields, body, { status = 403, error = "method_not_allowed", upstream = "nothing",
    log = { decision = "deny", reason = "method_not_allowed" } }, host)
end
local function unreadable(name, fields, body, host)
  post(name .. " is refused as unreadable", fields, body, { status = 400, error = "bad_request", upstream = "nothing" }, host)
end
local function part(head, value) return "--xYz\r\n" .. head .. "\r\n\r\n" .. (value or "DELETE") .. "\r\n" end
local function parts(...) return table.concat { ... } .. "--xYz--\r\n" end
local function named(head) return parts(part 'Content-Disposition: form-data; name="a"', part(head)) end
local NAME = 'Content-Disposition: form-data; name="_method"'

for _, host in ipairs { "post.test", "open.test" } do
  refused(host .. ": JSON", JSON, '{"a":1,"_method":"DELETE"}', host)
  refused(host .. ": multipart", MULTI, named(NAME), host)
  post(host .. ": a form's is cut", FORM, "a=1&_method=DELETE&_metho%64=PUT", { status = 200, upstream = { body = "a=1" } }, host)
  passes(host .. ": JSON without it", JSON, '{"method":"DELETE","a":{"_method":"x"},"b":["_method"]}', host)
  passes(host .. ": multipart without it", MULTI, parts(part('Content-Disposition: form-data; name="payment_method"'), part('Content-Disposition: form-data; name="f"; filename="a b.txt"\r\nContent-Type: text/plain', "_method")), host)
end
-- ---- types
for _, kind in ipairs { "application/json;charset=UTF-8", "application/vnd.api+json", "Application/JSON", "text/json", "application/problem+json; v=1",
  "application/json; charset=\"utf-8\"" } do
  refused("JSON as " .. kind, "Content-Type: " .. kind, '{"_method":"DELETE"}')
end
refused("JSON with _ for - in the field's name", "Content_Type: application/json", '{"_method":"DELETE"}')
for _, kind in ipairs { "application/x-json", "text/x-json" } do refused("JSON as " .. kind, "Content-Type: " .. kind, '{"_method":"DELETE"}') end
refused("text that Laravel takes for JSON", "Content-Type: text/plain; profile=\"/json\"", '{"_method":"DELETE"}')
refused("JSON without a type", "", '{"_method":"DELETE"}')
refused("JSON with an empty type", "Content-Type:", ' {"_method":"DELETE"}')
for _, charset in ipairs { "utf-8", "ISO-8859-1", "shift_jis", "utf-7", "\"x\"" } do
  post("a form in charset " .. charset, FORM .. "; charset=" .. charset, "a=1&_method=DELETE", { status = 200, upstream = { body = "a=1" } })
end
post("a form as PHP reads brackets", FORM, "a=1&_method[=DELETE&_method[x=DELETE&.method=DELETE&[_method=DELETE", { status = 200, upstream = { body = "a=1" } })
post("a form as ASP.NET reads %u", FORM, "a=%u005f&X-HTTP-Method%u002dOverride=DELETE&%u005f%u006dethod=PUT&%u005=1&b%u00zz=2", { status = 200, upstream = { body = "a=%u005f&%u005=1&b%u00zz=2" } })
unreadable("JSON in utf-16", JSON .. "; charset=utf-16", "\xff\xfe{\0}\0")
unreadable("JSON that is compressed", JSON .. "\r\nContent-Encoding: gzip", "\x1f\x8b")
unreadable("multipart that is compressed", MULTI .. "\r\nContent-Encoding: gzip", "\x1f\x8b")
unreadable("two types, JSON one of them", "Content-Type: text/plain\r\n" .. JSON, "{}")
unreadable("two types in one", "Content-Type: text/plain, application/json", "{}")
-- ---- JSON
refused("JSON, escaped", JSON, '{"\\u005fmethod":"DELETE"}')
refused("JSON, twice", JSON, '{"_method":"GET","_method":"DELETE"}')
refused("JSON, in capitals", JSON, '{"_METHOD":"DELETE"}')
for name, text in pairs { ["half"] = '{"_method":"DEL', ["two texts"] = '{}{"_method":"DELETE"}', ["a trailing comma"] = '{"_method":"DELETE",}',
  ["single quotes"] = "{'_method':'DELETE'}", ["a comment"] = '{/**/"_method":"DELETE"}', ["a BOM"] = '\xef\xbb\xbf{"_method":"DELETE"}', ["not UTF-8"] = '{"a":"\xff"}' } do
  unreadable("JSON with " .. name, JSON, text)
end
unreadable("JSON without a type, behind a BOM", "", '\xef\xbb\xbf{"_method":"DELETE"}')
unreadable("JSON without a type, with a trailing comma", "", '{"_method":"DELETE",}')
unreadable("half JSON with a BOM in it as UTF-16", JSON, '\xff\xfe{\0"\0')
unreadable("malformed JSON with an escape", JSON, '{"_\\u006dethod":"DELETE",}')
unreadable("JSON5 with an escape", JSON, '{"_\\x6dethod":"DELETE"}')
-- no reader can find the name in these
for name, text in pairs { ["half a surrogate pair"] = '{"a":"\\ud83d"}', ["NaN"] = '{"a":NaN}', ["deep nesting"] = ("[{\"a\":"):rep(40) .. "1" .. ("}]"):rep(40),
  ["deep objects"] = ('{"a":'):rep(80) .. "1" .. ("}"):rep(80), ["white space alone"] = " \n", ["a BOM before it"] = '\xef\xbb\xbf{"a":1}' } do
  passes("JSON with " .. name, JSON, text)
end
passes("a list", JSON, '[{"_method":"DELETE"}]')
passes("a body of another type", "Content-Type: application/x-ndjson", '{"_method":"DELETE"}\n{}')
passes("text", "Content-Type: text/plain", "_method=DELETE")
passes("no body", JSON, "")
-- ---- multipart
refused("multipart/related", "Content-Type: multipart/related; boundary=xYz", named(NAME))
refused("multipart/mixed, quoted boundary", 'Content-Type: multipart/mixed; boundary="xYz"; a=b', named(NAME))
for name, head in pairs {
  ["in capitals"] = 'CONTENT-DISPOSITION: FORM-DATA; NAME="_METHOD"', ["without quotes"] = "Content-Disposition: form-data; name=_method",
  ["with brackets"] = 'Content-Disposition: form-data; name="_method[]"', ["behind a space"] = 'Content-Disposition: form-data; name=" _method"',
  ["as name*"] = "Content-Disposition: form-data; name*=utf-8''%5fmethod", ["escaped"] = 'Content-Disposition: form-data; name="%5fmethod"',
  ["with a dot"] = 'Content-Disposition: form-data; name=".method"', ["as Content-ID"] = "Content-ID: <_method>",
  ["as the name of a file"] = 'Content-Disposition: form-data; filename="_method"', ["by its header's name"] = 'Content-Disposition: form-data; name="X-HTTP-Method-Override"',
  ["behind another"] = 'Content-Type: text/plain\r\nContent-Disposition: form-data; x=y; name="_method"', ["as an attachment"] = 'Content-Disposition: attachment; name="_method"',
} do refused("multipart, " .. name, MULTI, named(head)) end
for name, head in pairs {
  ["two names"] = 'Content-Disposition: form-data; name="a"; name="_method"', ["two dispositions"] = 'Content-Disposition: form-data; name="a"\r\n' .. NAME,
  ["a folded line"] = 'Content-Disposition: form-data;\r\n name="_method"', ["a continued parameter"] = 'Content-Disposition: form-data; name*0="_met"; name*1="hod"',
  ["no end of the quotes"] = 'Content-Disposition: form-data; name="_method', ["PHP's quotes"] = "Content-Disposition: form-data; name='_method'",
  ["a space before ="] = 'Content-Disposition: form-data; name ="_method"', ["a backslash"] = 'Content-Disposition: form-data; name="a\\"; name="_method"',
  ["an encoded word"] = 'Content-Disposition: form-data; name="=?utf-8?q?_method?="', ["a space before the colon"] = 'Content-Disposition : form-data; name="_method"',
  ["a bare LF"] = 'X: y\n' .. NAME, ["a bare CR"] = "X: y\r" .. NAME, ["a line without a colon"] = "x\r\n" .. NAME,
} do unreadable("multipart with " .. name, MULTI, named(head)) end
refused("multipart with bare LFs", MULTI, (named(NAME):gsub("\r\n", "\n")))
local LF = "--xYz\nContent-Type: application/json\nMIME-Version: 1.0\n\n{}\n--xYz\nContent-Type: image/png\nContent-Transfer-Encoding: binary\n\n\x89PNG\r\n\n\n--xYz--\n"
passes("multipart with bare LFs, as Google's Python client sends it", 'Content-Type: multipart/related; boundary="xYz"', LF)
unreadable("multipart with bare LFs and a delimiter behind CRLF", MULTI, (LF:gsub("\n%-%-xYz%-%-", "\r%0")))
for name, head in pairs {
  ["a quote in a file's name, as curl writes it"] = 'name="f"; filename="a\\"b.txt"', ["a path of Windows"] = 'name="f"; filename="C:\\x\\b.txt"',
  [".NET's names"] = "name=f; filename=\"=?utf-8?B?w6kudHh0?=\"; filename*=utf-8''%C3%A9.txt", ["Spring's names"] = 'name="f"; filename="=?UTF-8?Q?a=C3=A9.txt?="',
} do passes("multipart with " .. name, MULTI, named("Content-Disposition: form-data; " .. head)) end
for name, head in pairs {
  ["a backslash in the name"] = 'name="_me\\thod"', ["a backslash and a name that is split"] = 'name="a\\"; name="_met"hod', ["an encoded word as a file's name alone"] = 'filename="=?utf-8?q?_method?="',
  ["a backslash and percent"] = 'name="\\a%5fm"', ["an encoded name beside a file's"] = 'name="=?utf-8?q?_method?="; filename="=?utf-8?q?x?="',
} do unreadable("multipart with " .. name, MULTI, named("Content-Disposition: form-data; " .. head)) end
-- ---- batches
local function batch(line, head) return parts(part((head or "Content-Type: application/http") .. "\r\nContent-ID: <1>", line .. "\r\nAccept: */*\r\n")) end
local MIXED = "Content-Type: multipart/mixed; boundary=xYz"
refused("a batch with a DELETE", MIXED, batch "DELETE /drive/v3/files/x HTTP/1.1")
refused("a batch with a patch, in small letters", MIXED, batch("patch /x HTTP/1.1", "content-type:application/http;msgtype=request"))
refused("a batch within a batch's change set", MIXED, parts(part("Content-Type: multipart/mixed; boundary=abc", "--abc\r\nContent-Type: application/http\r\n\r\nPUT /x HTTP/1.1\r\n\r\n--abc--")))
passes("a batch with GET and POST", MIXED, parts(part("Content-Type: application/http", "GET /x HTTP/1.1"), part("Content-Type: application/http", "POST /x HTTP/1.1\r\n\r\n{}")))
passes("a file that shows a request", MULTI, parts(part('Content-Disposition: form-data; name="f"', "DELETE /x HTTP/1.1")))
for path, status in pairs { ["/v1/$batch"] = 403, ["/v1/%24batch"] = 403, ["/v1/jobs"] = 200 } do
  local text = '{"requests":[{"id":"1","method":"GET","url":"/me"},{"id":"2","Method":"delete","url":"/x"}]}'
  cases[#cases + 1] = { name = path .. ": a batch in JSON with a DELETE", host = "post.test", expect = { status = status, error = status == 403 and "method_not_allowed" or nil },
    send = ("POST %s HTTP/1.1\r\nHost: post.test\r\n%s\r\nContent-Length: %d\r\n\r\n%s"):format(path, JSON, #text, text) }
end
local whole = named 'Content-Disposition: form-data; name="b"'
for name, text in pairs {
  ["LF in one place"] = (named(NAME):gsub("\r\n", "\n", 1)), ["CRLF in one place"] = (named(NAME):gsub("\r\n", "\n", 5)), ["a delimiter behind a bare LF"] = parts(part('Content-Disposition: form-data; name="a"', "x\n--xYz\n" .. NAME .. "\n\nDELETE")),
  ["no end"] = part 'Content-Disposition: form-data; name="a"', ["something behind the end"] = whole .. part(NAME) .. "--xYz--\r\n",
  ["something before the first"] = "x\r\n--xYz" .. "\r\n" .. NAME .. "\r\n\r\nx\r\n--xYz--\r\nx", ["another boundary"] = (named(NAME):gsub("xYz", "abc")),
  ["white space behind a delimiter"] = (whole:gsub("%-%-xYz\r\n", "--xYz \r\n", 1)), ["a delimiter that goes on"] = parts("--xYz1\r\n" .. NAME .. "\r\n\r\nDELETE\r\n"),
} do unreadable("multipart with " .. name, MULTI, text) end
for _, kind in ipairs { "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=a; boundary=xYz", "multipart/form-data; x=boundary; boundary=xYz",
  "multipart/form-data; xboundary=a; boundary=xYz", "multipart/form-data; boundary*=utf-8''xYz", "multipart/form-data; Boundary=xYz", "multipart/form-data, boundary=xYz",
  "multipart/form-data boundary=xYz", "multipart/form-data; boundary=xYz; charset=utf-16" } do
  unreadable(kind, "Content-Type: " .. kind, whole)
end
passes("a browser's form", "Content-Type: multipart/form-data; boundary=----WebKitFormBoundary7MA4", (whole:gsub("xYz", "----WebKitFormBoundary7MA4")))
passes("requests' file with a long name", MULTI, parts(part("Content-Disposition: form-data; name=\"f\"; filename*=utf-8''na%C3%AFve.txt\r\nContent-Type: text/plain", "a\r\nb--xY")))
-- ---- sizes
local big = '{"a":"' .. ("x"):rep((1 << 20) + 1) .. '"}'
post("JSON of over 1 MiB passes", JSON, big, { status = 200, upstream = { body_size = #big } })
for name, kind in pairs { JSON = JSON, multipart = MULTI, ["a form"] = FORM } do
  cases[#cases + 1] = { name = name .. " of over 16 MiB is refused", host = "post.test",
    send = "POST /v1 HTTP/1.1\r\nHost: post.test\r\n" .. kind .. "\r\nContent-Length: 16777217\r\n\r\n",
    expect = { status = 413, error = "body_too_large", upstream = "nothing" } }
end
-- A long form is only looked through, in turns; what a short one loses makes a long one refused.
local long = ("a=%41&"):rep((3 << 20) // 7)
for name, kind in pairs { form = FORM, ["no type"] = "" } do
  cases[#cases + 1] = { name = name .. " of 3 MiB passes", host = "post.test",
    send = { "POST /v1 HTTP/1.1\r\nHost: post.test\r\n" .. kind .. (kind ~= "" and "\r\n" or "") .. ("Content-Length: %d\r\n\r\n"):format(#long), long },
    expect = { status = 200, upstream = { body_size = #long } } }
  cases[#cases + 1] = { name = name .. " of 3 MiB with _method is refused", host = "post.test",
    send = { "POST /v1 HTTP/1.1\r\nHost: post.test\r\n" .. kind .. (kind ~= "" and "\r\n" or "") .. ("Content-Length: %d\r\n\r\n"):format(#long + 14), long, "%5Fmethod=PUT&" .. "x" },
    expect = { status = 403, error = "method_not_allowed", upstream = "nothing" } }
end
-- ---- long ones that need more than one look
local nan, escaped = '{"a":NaN,"b":"' .. ("\\n"):rep(3 << 20), ("x"):rep((1 << 20) - 20)
post("malformed JSON of 6 MiB passes", JSON, nan .. '"}', { status = 200, upstream = { body_size = #nan + 2 } })
unreadable("malformed JSON with the name across two slices", JSON, '{"a":NaN,"b":"' .. escaped .. '","_method":"DELETE"}')
local head = 'Content-Disposition: form-data; name="a"; filename="' .. ("\\a"):rep(900)
unreadable("multipart with a long name full of backslashes", MULTI, named(head .. '"'))
unreadable("multipart with over 256 KiB of heads", MULTI, parts(part('Content-Disposition: form-data; name="a"; filename="' .. ("a"):rep(4000) .. '"'):rep(70)))
refused("a batch of over 4 MiB", MIXED, parts(part("Content-Type: application/http", "GET /x HTTP/1.1\r\n\r\n" .. ("x"):rep(4 << 20))))
-- ---- where no method rule decides, and where POST is not what a body could change
passes("JSON, and no method rule", JSON, '{"_method":"DELETE"}', "any.test")
passes("multipart, and no method rule", MULTI, named(NAME), "any.test")
passes("half JSON, and no method rule", JSON, '{"_method', "any.test")
passes("JSON where all methods are allowed", JSON, '{"_method":"DELETE"}', "all.test")
passes("a PUT's JSON", JSON, '{"_method":"DELETE"}', "put.test", "PUT")

local function bearer(name, host, methods)
  return { name = name, type = "bearer", host = host, method = methods, secrets = { token = "canary-" .. name } }
end

return {
  shared = {
    hosts = { "post.test", "open.test", "any.test", "all.test", "put.test" },
    credentials = {
      bearer("post", "post.test", { "GET", "POST" }), bearer("any", "any.test"),
      bearer("all", "all.test", { "POST", "PUT", "PATCH", "DELETE" }), bearer("put", "put.test", { "POST", "PUT" }),
    },
    domains = { { host = "open.test", method = { "GET", "POST" } } },
  },
  cases = cases,
}
