//! dbg
use std::time::*;
use tandem_sim::*;
use tandem_cluster::*;
fn main(){
    let seed:u64=std::env::args().nth(1).unwrap().parse().unwrap();
    let src:i32=std::env::args().nth(2).unwrap().parse().unwrap();
    let dst:usize=std::env::args().nth(3).unwrap().parse().unwrap();
    let (r,net)=run_history_net(seed,&HistorySettings::default(),Instant::now());
    if let Err(f)=r { println!("{:?}",f.disagreements); }
    for l in net.trace() {
        let p=tandem_bin::Packet::parse(&l.bytes).unwrap();
        if p.capability()!=b"clusterer-internal" {continue}
        let d=decode_internal(&p,Family::V3_3,true).unwrap().unwrap();
        if l.to.0+1!=dst {continue}
        match &d.fields { Internal::LsUpdate{..} if d.source_id.0==src => println!("{:?} {}->{} {:?}",l.at,l.from.0+1,l.to.0+1,d),
          Internal::FullTopUpdate{stamp,entries,path} => { for e in entries { if e.node_id.0==src { println!("{:?} {}->{} FULL src {} {:?} entry {:?} path {:?}",l.at,l.from.0+1,l.to.0+1,d.source_id,stamp,e,path)}}},
          Internal::Ping{..}|Internal::Pong{..} => {}, _=>{} }
    }
}
