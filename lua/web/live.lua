--- The one script of the operator's page, and of the list of approvals at the door: the part with the id `live` is fetched again and
-- put in the place of what stands there.
-- It asks only while the page is looked at, and never while a person types or marks something in that part; each request has a
-- deadline, failures are asked about more seldom, and an hour is the end. What comes is parsed as a document of its own, in which
-- nothing runs, and the page's Content-Security-Policy allows this script by its hash and no other.
-- The request says X-Look, so that a page nobody touches does not keep its session alive.
return [[
(()=>{
const at=document.getElementById("live"),end=Date.now()+36e5,each=(n,q,f)=>n.querySelectorAll(q).forEach(f)
if(!at)return
const every=+at.dataset.every*1e3
let wait=every
const look=async()=>{
  if(!document.hidden&&!at.contains(document.activeElement)&&getSelection().isCollapsed)try{
    const r=await fetch(location.href,{headers:{"X-Look":"1"},cache:"no-store",signal:AbortSignal.timeout(1e4)})
    const n=new DOMParser().parseFromString(await r.text(),"text/html").getElementById("live")
    if(!r.ok||!n){document.getElementById("stopped").hidden=false;return}
    const was=q=>[...at.querySelectorAll(q)],open=was("details"),wide=was(".wide").map(w=>w.scrollLeft)
    each(n,"details",(d,i)=>d.open=!!open[i]?.open)
    at.replaceChildren(...n.childNodes)
    each(at,".wide",(w,i)=>w.scrollLeft=wide[i]||0)
    wait=every
  }catch{wait=Math.min(wait*2,6e4)}
  if(Date.now()<end)setTimeout(look,wait)
}
setTimeout(look,wait)
})()
]]
